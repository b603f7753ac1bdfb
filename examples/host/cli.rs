//! What can be asked for.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    str::FromStr,
};

use clap::Parser;
use mbuf_protocols::Dns;

use crate::common::quantity;

/// A machine behind a TAP: answers ARP, neighbour discovery and ping, echo over UDP and TCP, and serves files by TFTP.
/// It makes the TAP, which needs root or a network namespace of one's own (unshare -rn), and takes it away again at
/// its end.
#[derive(Debug, Parser)]
#[command(name = "host")]
pub struct Arguments {
    /// The name of the TAP, up to 15 bytes.
    #[arg(long, value_name = "NAME", default_value = "mbuf0")]
    pub tap: String,
    /// The machine's Ethernet address.
    #[arg(long, value_name = "MAC", default_value = "02:00:00:00:00:02")]
    pub mac: Mac,
    /// The machine's address and the length of its network's prefix.
    #[arg(long, value_name = "ADDR/LEN", default_value = "10.7.0.2/24")]
    pub ip: Network,
    /// The same for IPv6; besides it has the link-local address of its MAC.
    #[arg(long, value_name = "ADDR/LEN")]
    pub ip6: Option<Network6>,
    /// The address of the kernel's end of the TAP (default: the first other one of the network).
    #[arg(long, value_name = "ADDR/LEN")]
    pub kernel: Option<Network>,
    /// Whom to send to what is in no network of ours.
    #[arg(long, value_name = "ADDR")]
    pub gateway: Option<Ipv4Addr>,
    /// The longest IP packet, in bytes.
    #[arg(long, value_name = "BYTES", default_value_t = 1500,
        value_parser = clap::value_parser!(u32).range(576..=65_521))]
    pub mtu: u32,
    /// Leaves checksums to the kernel, and takes and sends super-packets of UDP whole.
    #[arg(long)]
    pub offload: bool,
    /// A name and an address of it, for which it answers questions of DNS, both ways; may be given
    /// several times.
    #[arg(long, value_name = "NAME=ADDR")]
    pub dns: Vec<Named>,
    /// Serves the files beneath this folder by TFTP, on port 69, to whoever asks.
    #[arg(long, value_name = "DIR")]
    pub tftp: Option<PathBuf>,
    /// Takes new files there, too; none that is there is replaced.
    #[arg(long, requires = "tftp")]
    pub tftp_write: bool,
    /// Memory for packets.
    #[arg(long, value_name = "SIZE", default_value = "16MiB", value_parser = quantity::bytes)]
    pub memory: usize,
}

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

impl FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| (1..=2).contains(&part.len()));
            let value = part.and_then(|part| u8::from_str_radix(part, 16).ok());
            *byte = value.ok_or("six bytes are wanted, as 02:00:00:00:00:02")?;
        }
        if parts.next().is_some() {
            return Err("more than six bytes".into());
        }
        if bytes[0] & 1 != 0 {
            return Err("a group's address (the first byte is odd), not a machine's".into());
        }
        Ok(Mac(bytes))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        mbuf::Address::Mac(self.0).fmt(f)
    }
}

/// An address in its network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    pub address: Ipv4Addr,
    pub prefix: u8,
}

impl Network {
    /// The first address of the network that is not this one.
    pub fn other(self) -> Network {
        let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
        let first = (self.address.to_bits() & mask) + 1;
        let other = if first == self.address.to_bits() { first + 1 } else { first };
        Network { address: Ipv4Addr::from_bits(other), prefix: self.prefix }
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, prefix) =
            text.split_once('/').ok_or("an address and a length are wanted, as 10.7.0.2/24")?;
        let address: Ipv4Addr = address.parse().map_err(|error| format!("{error}"))?;
        let prefix: u8 = prefix.parse().map_err(|error| format!("the length: {error}"))?;
        if !(1..=30).contains(&prefix) {
            return Err(format!("a prefix of {prefix} bits, not of 1 to 30"));
        }
        let host = address.to_bits() & !(u32::MAX << (32 - prefix));
        if host == 0 || host == u32::MAX >> prefix {
            return Err(format!("{address} is the network itself, or its broadcast address"));
        }
        Ok(Network { address, prefix })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// An IPv6 address in its network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network6 {
    pub address: Ipv6Addr,
    pub prefix: u8,
}

impl Network6 {
    /// The first address of the network, after the router's anycast one, that is not this one.
    pub fn other(self) -> Network6 {
        let first = (self.address.to_bits() & u128::MAX << (128 - self.prefix)) + 1;
        let other = if first == self.address.to_bits() { first + 1 } else { first };
        Network6 { address: Ipv6Addr::from_bits(other), prefix: self.prefix }
    }
}

impl FromStr for Network6 {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, prefix) =
            text.split_once('/').ok_or("an address and a length are wanted, as fd00::2/64")?;
        let address: Ipv6Addr = address.parse().map_err(|error| format!("{error}"))?;
        let prefix: u8 = prefix.parse().map_err(|error| format!("the length: {error}"))?;
        if !(1..=126).contains(&prefix) {
            return Err(format!("a prefix of {prefix} bits, not of 1 to 126"));
        }
        if address.is_multicast() || address.to_bits() & !(u128::MAX << (128 - prefix)) == 0 {
            return Err(format!("{address} is a group's, or the network itself"));
        }
        Ok(Network6 { address, prefix })
    }
}

impl fmt::Display for Network6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// A name and an address of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    pub name: String,
    pub address: IpAddr,
}

impl FromStr for Named {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, address) = text
            .split_once('=')
            .ok_or("a name and an address are wanted, as a.example=10.7.0.2")?;
        Dns::new().origin(name).map_err(|error| error.to_string())?;
        let address = address.parse().map_err(|error| format!("{error}"))?;
        Ok(Named { name: name.to_owned(), address })
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn addresses_are_read_and_refused() {
        let mac = "02:0:ff:00:00:1".parse::<Mac>().unwrap();
        assert_eq!(mac, Mac([2, 0, 255, 0, 0, 1]));
        assert_eq!(mac.to_string(), "02:00:ff:00:00:01");
        for wrong in ["", "02:00:00:00:00", "02:00:00:00:00:01:02", "02:00:00:00:00:1ff", "g::::::"]
        {
            assert!(wrong.parse::<Mac>().is_err(), "{wrong}");
        }
        assert!("01:00:5e:00:00:01".parse::<Mac>().unwrap_err().contains("group"));
        for wrong in ["10.0.0.1", "10.0.0.1/31", "10.0.0.1/0", "10.0.0.0/8", "10.0.0.255/24", "x/8"]
        {
            assert!(wrong.parse::<Network>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_are_read_and_refused() {
        let named: Named = "a.example=fd00::2".parse().unwrap();
        assert_eq!((named.name.as_str(), named.address.is_ipv6()), ("a.example", true));
        for wrong in ["a.example", "a..example=10.7.0.2", "a.example=10.7.0.2/24"] {
            assert!(wrong.parse::<Named>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_kernel_has_another_address_of_the_same_network() {
        let other = |text: &str| text.parse::<Network6>().unwrap().other().to_string();
        assert_eq!(other("fd00::2/64"), "fd00::1/64");
        assert_eq!(other("fd00::1/126"), "fd00::2/126");
        for wrong in
            ["fd00::2", "fd00::/64", "ff02::1/16", "fd00::2/127", "fd00::2/0", "10.0.0.1/8"]
        {
            assert!(wrong.parse::<Network6>().is_err(), "{wrong}");
        }
        let other = |text: &str| text.parse::<Network>().unwrap().other().to_string();
        assert_eq!(other("10.7.0.2/24"), "10.7.0.1/24");
        assert_eq!(other("10.7.0.1/24"), "10.7.0.2/24");
        assert_eq!(other("192.168.4.2/30"), "192.168.4.1/30");
    }
}
