//! The classes of buffers that a pool has.

use std::fmt;

/// A class of buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Class {
    /// A small mbuf: 128 bytes of data of its own. Every segment of a chain is one, whether its
    /// bytes lie in it, in a cluster or elsewhere.
    Small,
    /// A cluster of 2 KiB.
    K2,
    /// A cluster of 4 KiB.
    K4,
    /// A cluster of 16 KiB.
    K16,
    /// A cluster of 64 KiB: the largest number of contiguous bytes a pool can give.
    K64,
}

impl Class {
    /// All classes, smallest first.
    pub const ALL: [Class; 5] = [Class::Small, Class::K2, Class::K4, Class::K16, Class::K64];

    /// Bytes of data that one buffer of the class holds.
    ///
    /// ```
    /// use mbuf::Class;
    ///
    /// assert_eq!(Class::ALL.map(Class::data_len), [128, 2048, 4096, 16_384, 65_536]);
    /// ```
    pub const fn data_len(self) -> usize {
        match self {
            Class::Small => 128,
            Class::K2 => 2 << 10,
            Class::K4 => 4 << 10,
            Class::K16 => 16 << 10,
            Class::K64 => 64 << 10,
        }
    }

    /// Bytes of the mapping that one buffer of the class takes.
    ///
    /// ```
    /// use mbuf::Class;
    ///
    /// // A small mbuf is its data and 128 bytes about it; a cluster is data alone.
    /// assert_eq!((Class::Small.size(), Class::K2.size()), (256, 2048));
    /// ```
    pub const fn size(self) -> usize {
        1 << self.shift()
    }

    /// The smallest class that holds `len` bytes contiguously; [`Class::K64`] if none does.
    ///
    /// ```
    /// use mbuf::Class;
    ///
    /// assert_eq!((Class::for_len(128), Class::for_len(129)), (Class::Small, Class::K2));
    /// assert_eq!(Class::for_len(1 << 20), Class::K64);
    /// ```
    pub const fn for_len(len: usize) -> Class {
        match len {
            0..=128 => Class::Small,
            129..=2048 => Class::K2,
            2049..=4096 => Class::K4,
            4097..=16384 => Class::K16,
            _ => Class::K64,
        }
    }

    pub(crate) const fn index(self) -> usize {
        self as usize
    }

    pub(crate) const fn shift(self) -> u32 {
        match self {
            Class::Small => 8,
            Class::K2 => 11,
            Class::K4 => 12,
            Class::K16 => 14,
            Class::K64 => 16,
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Class::Small => "small mbuf",
            Class::K2 => "2 KiB cluster",
            Class::K4 => "4 KiB cluster",
            Class::K16 => "16 KiB cluster",
            Class::K64 => "64 KiB cluster",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_holds_what_it_says() {
        for class in Class::ALL {
            assert_eq!(Class::for_len(class.data_len()), class);
            assert!(class.size() >= class.data_len());
        }
        assert_eq!(Class::for_len(129), Class::K2);
        assert_eq!(Class::for_len(usize::MAX), Class::K64);
    }
}
