//! Which packets are wanted.

use std::str::FromStr;

use mbuf_protocols::dissect::Dissection;

/// Alternatives, each of which is layers that stand one within the other.
#[derive(Debug, Clone)]
pub struct Filter(Vec<Vec<String>>);

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let path = |path: &str| path.split('/').map(|name| name.trim().to_owned()).collect();
        let alternatives: Vec<Vec<String>> = text.split(',').map(path).collect();
        if alternatives.iter().flatten().any(String::is_empty) {
            return Err("names of layers are wanted, as dns or ipv4/udp or dns,icmp".to_owned());
        }
        Ok(Self(alternatives))
    }
}

impl Filter {
    pub fn matches(&self, found: &Dissection) -> bool {
        let names: Vec<&str> = found.layers.iter().map(|layer| layer.name).collect();
        self.0.iter().any(|path| names.windows(path.len()).any(|window| window == path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_names_are_refused() {
        for wrong in ["", ",", "ipv4/", "dns,,arp", "/udp"] {
            assert!(wrong.parse::<Filter>().is_err(), "{wrong}");
        }
        assert!("ipv4/udp, dns".parse::<Filter>().is_ok());
    }
}
