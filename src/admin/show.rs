//! What SHOW can show: columns, known before anything is looked at, and the rows of just now.

use super::Admin;
use super::collect::{self, View};
use crate::stats::rows;
use crate::stats::table::{Column, Row, row};

/// One SHOW command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "named as the commands are")]
pub enum Show {
    ActiveSockets,
    Advice,
    Audit,
    Blockers,
    Budget,
    Clients,
    Config,
    Databases,
    DnsHosts,
    DnsZones,
    Fds,
    Hosts,
    Lists,
    Mem,
    Paused,
    Peers,
    PeerPools,
    Pins,
    Pools,
    Servers,
    Shares,
    Sockets,
    State,
    Statements,
    Stats,
    StatsAverages,
    StatsTotals,
    Totals,
    Users,
    Version,
    Waits,
    /// A parameter of the session that drivers ask for: its place in [`PARAMETERS`].
    Parameter(usize),
    /// `SELECT 1`.
    One,
    /// `SELECT pg_advisory_unlock_all()`.
    UnlockAll,
}

/// Parameters of the session, as the login has reported them where it did.
const PARAMETERS: [([Column; 1], &str); 5] = [
    ([Column::text("client_encoding")], "UTF8"),
    ([Column::text("default_transaction_isolation")], "read committed"),
    ([Column::text("standard_conforming_strings")], "on"),
    ([Column::text("datestyle")], "ISO"),
    ([Column::text("timezone")], "GMT"),
];

const ONE: &[Column] = &[Column::int("?column?")];
const UNLOCK_ALL: &[Column] = &[Column::text("pg_advisory_unlock_all")];

impl Show {
    /// What `name`, in lower case, means after SHOW.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        if let Some(at) = PARAMETERS.iter().position(|(column, _)| column[0].name == name) {
            return Some(Self::Parameter(at));
        }
        Some(match name {
            "active_sockets" => Self::ActiveSockets,
            "advice" => Self::Advice,
            "audit" => Self::Audit,
            "blockers" => Self::Blockers,
            "budget" => Self::Budget,
            "clients" => Self::Clients,
            "config" => Self::Config,
            "databases" => Self::Databases,
            "dns_hosts" => Self::DnsHosts,
            "dns_zones" => Self::DnsZones,
            "fds" => Self::Fds,
            "hosts" => Self::Hosts,
            "lists" => Self::Lists,
            "mem" => Self::Mem,
            "paused" => Self::Paused,
            "peers" => Self::Peers,
            "peer_pools" => Self::PeerPools,
            "pins" => Self::Pins,
            "pools" => Self::Pools,
            "servers" => Self::Servers,
            "shares" => Self::Shares,
            "sockets" => Self::Sockets,
            "state" => Self::State,
            "statements" => Self::Statements,
            "stats" => Self::Stats,
            "stats_averages" => Self::StatsAverages,
            "stats_totals" => Self::StatsTotals,
            "totals" => Self::Totals,
            "users" => Self::Users,
            "version" => Self::Version,
            "waits" => Self::Waits,
            _ => return None,
        })
    }

    /// Its columns.
    #[must_use]
    pub fn columns(self) -> &'static [Column] {
        match self {
            Self::ActiveSockets | Self::Sockets => rows::ALL_SOCKETS,
            Self::Advice => rows::ADVICE,
            Self::Audit => rows::AUDIT,
            Self::Blockers => rows::BLOCKERS,
            Self::Budget => rows::BUDGET,
            Self::Clients | Self::Servers => rows::SOCKETS,
            Self::Config => rows::CONFIG,
            Self::Databases => rows::DATABASES,
            Self::DnsHosts => rows::DNS_HOSTS,
            Self::DnsZones => rows::DNS_ZONES,
            Self::Fds => rows::FDS,
            Self::Hosts => rows::HOSTS,
            Self::Lists => rows::LISTS,
            Self::Mem => rows::MEM,
            Self::Paused => rows::PAUSED,
            Self::Peers => rows::PEERS,
            Self::PeerPools => rows::PEER_POOLS,
            Self::Pins => rows::PINS,
            Self::Pools => rows::POOLS,
            Self::Shares => rows::SHARES,
            Self::State => rows::STATE,
            Self::Statements => rows::STATEMENTS,
            Self::Stats => rows::STATS,
            Self::StatsAverages => rows::STATS_AVERAGES,
            Self::StatsTotals => rows::STATS_TOTALS,
            Self::Totals => rows::TOTALS,
            Self::Users => rows::USERS,
            Self::Version => rows::VERSION,
            Self::Waits => rows::WAITS,
            Self::Parameter(at) => &PARAMETERS[at].0,
            Self::One => ONE,
            Self::UnlockAll => UNLOCK_ALL,
        }
    }

    /// The tag of its CommandComplete.
    #[must_use]
    pub const fn tag(self) -> &'static str {
        match self {
            Self::One | Self::UnlockAll => "SELECT 1",
            _ => "SHOW",
        }
    }

    /// Its rows now.
    #[must_use]
    pub fn rows(self, admin: &Admin) -> Vec<Row> {
        let view = View::new(admin);
        match self {
            Self::ActiveSockets => view.sockets(true),
            Self::Sockets => view.sockets(false),
            Self::Fds => view.descriptors(),
            Self::Hosts => view.hosts(),
            Self::Paused => admin.paused(),
            Self::Advice => admin.advice_rows(),
            Self::Audit => view.audit(),
            Self::Blockers => view.blockers(),
            Self::Budget => view.budgets(),
            Self::Clients => view.clients().into_iter().map(rows::SocketRow::row).collect(),
            Self::Servers => view.servers().into_iter().map(rows::SocketRow::row).collect(),
            Self::Config => config(&view),
            Self::Databases => view.databases(),
            Self::Lists => view.lists(),
            Self::Mem => view.memory(),
            Self::Pins => view.pins(),
            Self::Shares => view.shares(),
            Self::Pools => view.pools().iter().map(rows::PoolRow::row).collect(),
            Self::State => {
                let (paused, suspended) = (admin.context.pools.is_paused(), admin.is_suspended());
                let states = [("active", !paused && !suspended), ("paused", paused), ("suspended", suspended)];
                states.into_iter().map(|(name, is)| row![name, collect::yes_no(is)]).collect()
            }
            Self::Statements => view.statements(),
            Self::Waits => view.waits(),
            Self::Stats => stats(admin, &view, &[false, true]),
            Self::StatsTotals => stats(admin, &view, &[false]),
            Self::StatsAverages => stats(admin, &view, &[true]),
            Self::Totals => {
                let sum = admin.totals().into_iter().map(|(_, totals)| totals).sum();
                rows::totals_rows(sum, admin.history.average_of_all(sum, view.now))
            }
            Self::Users => view.users(),
            Self::Version => vec![row![concat!("Carpool ", env!("CARGO_PKG_VERSION"))]],
            Self::Parameter(at) => vec![row![PARAMETERS[at].1]],
            Self::One => vec![row![1u32]],
            Self::UnlockAll => vec![row![""]],
            Self::Peers => view.peers(),
            Self::PeerPools => view.peer_pools(),
            // Names are left to the system's resolver.
            Self::DnsHosts | Self::DnsZones => Vec::new(),
        }
    }
}

/// The rows of SHOW STATS and its parts: for each entry of `averages` the averages or the sums.
fn stats(admin: &Admin, view: &View<'_>, averages: &[bool]) -> Vec<Row> {
    let row = |(name, totals)| {
        let group = |&average: &bool| if average { admin.history.average(&name, totals, view.now) } else { totals };
        let groups: Vec<_> = averages.iter().map(group).collect();
        rows::stats_row(name.as_str(), &groups)
    };
    admin.totals().into_iter().map(row).collect()
}

fn config(view: &View<'_>) -> Vec<Row> {
    let entry = |e: crate::config::Entry| row![e.name, e.value, e.default, collect::yes_no(e.changeable)];
    view.config.entries().into_iter().map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_have_one_column_of_their_name() {
        let show = Show::named("timezone").unwrap();
        assert_eq!(show.columns(), [Column::text("timezone")]);
        assert_eq!(Show::named("nonsense"), None);
    }

    #[test]
    fn every_row_fills_its_columns() {
        let stand = crate::admin::tests::Stand::new(&["app"]);
        let names = "active_sockets advice audit blockers budget clients config databases dns_hosts dns_zones fds hosts lists mem paused peers peer_pools pins pools servers sockets \
            state statements stats stats_averages stats_totals totals users version waits timezone";
        for name in names.split_whitespace() {
            let show = Show::named(name).unwrap();
            for row in show.rows(&stand.admin) {
                assert_eq!(row.len(), show.columns().len(), "{name}");
            }
        }
        assert_eq!(Show::Databases.rows(&stand.admin).len(), 2, "the console is one");
        assert_eq!(Show::Pools.rows(&stand.admin).len(), 1, "no user, no pool; the console's own");
    }
}
