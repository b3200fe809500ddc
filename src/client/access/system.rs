//! What the operating system knows: names of hosts and users, its own addresses.

use std::io;
use std::net::IpAddr;

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::SockaddrStorage;
use nix::unistd::{Uid, User};

use super::outside::Outside;
use crate::config::hba::Net;

/// What the host at an address is called, if that name leads back to the address.
///
/// # Errors
/// When there was no answer in time.
pub(super) async fn host_name(outside: &Outside, address: IpAddr) -> Result<Option<String>, String> {
    outside.look_up(move || confirmed_name(address)).await
}

fn confirmed_name(address: IpAddr) -> Option<String> {
    // A host without a name, or with nobody to ask for it, matches no line with a name; as in PostgreSQL.
    let name = dns_lookup::lookup_addr(&address).ok()?;
    if name.parse::<IpAddr>().is_ok() {
        return None;
    }
    let mut addresses = dns_lookup::lookup_host(&name).ok()?;
    addresses.any(|found| found.to_canonical() == address).then_some(name)
}

/// The name of a user of the system.
///
/// # Errors
/// When it has none, or there was no answer in time.
pub(super) async fn user_name(outside: &Outside, uid: u32) -> Result<String, String> {
    let found = outside.look_up(move || User::from_uid(Uid::from_raw(uid))).await?;
    match found {
        Ok(Some(user)) => Ok(user.name),
        Ok(None) => Err(format!("the system has no user with the number {uid}")),
        Err(error) => Err(format!("the name of user number {uid} can't be looked up: {error}")),
    }
}

/// The addresses of this host with their networks.
///
/// # Errors
/// The system's.
pub(super) fn interfaces() -> io::Result<Vec<Net>> {
    let mut nets = Vec::new();
    for interface in getifaddrs()? {
        let Some(address) = interface.address.as_ref().and_then(ip) else { continue };
        let net = interface.netmask.as_ref().and_then(ip).and_then(|mask| Net::new(address, mask));
        nets.push(net.unwrap_or_else(|| Net::host(address)));
    }
    Ok(nets)
}

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_is_there() {
        let own = interfaces().unwrap();
        let net = own.iter().find(|net| net.address() == IpAddr::from([127, 0, 0, 1])).unwrap();
        assert!(net.contains([127, 9, 9, 9].into()) && !net.contains([128, 0, 0, 1].into()));
    }

    #[tokio::test]
    async fn users_have_names() {
        assert_eq!(user_name(&Outside::default(), 0).await.as_deref(), Ok("root"));
        assert!(user_name(&Outside::default(), u32::MAX - 7).await.is_err());
    }
}
