//! SHOW PEERS and SHOW PEER_POOLS: to whom cancel requests are passed on.

use super::collect::View;
use crate::config::Host;
use crate::stats::table::{Row, row};

impl View<'_> {
    /// SHOW PEERS: those of the configuration.
    pub(super) fn peers(&self) -> Vec<Row> {
        let peers = self.config.peers.iter().map(|(id, peer)| {
            let host = peer.host.as_ref().map(|host| match host {
                Host::Tcp(name) => name.clone(),
                Host::Unix(directory) => directory.display().to_string(),
            });
            row![*id, host.unwrap_or_default(), peer.port, peer.pool_size]
        });
        peers.collect()
    }

    /// SHOW PEER_POOLS: what is on its way to them. There are no connections besides.
    pub(super) fn peer_pools(&self) -> Vec<Row> {
        let pools = self.config.peers.keys().map(|id| {
            let (active, waiting) = self.admin.context.peers.counts(*id);
            row![*id, active, waiting, active, 0u32]
        });
        pools.collect()
    }
}
