//! Names that were received, so that no two of them collide.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
};

use mbuf::io::store::Name;

use super::trouble::{Code, Trouble};

/// The names of a transfer and of the folders on the way to them. Keeps 16 bytes of each.
#[derive(Debug)]
pub(super) struct Names {
    /// By the hash of the folded name: that of the name itself, whose lowest bit says whether it
    /// is a file's.
    seen: HashMap<u64, u64>,
    keys: RandomState,
    limit: usize,
    /// Names that differ in case only are let pass.
    mix_case: bool,
}

impl Names {
    pub(super) fn new(limit: usize, mix_case: bool) -> Self {
        Self { seen: HashMap::new(), keys: RandomState::new(), limit, mix_case }
    }

    /// Takes note of a name.
    ///
    /// # Errors
    /// It is that of a file which was there, or differs from another, in a folder's name perhaps,
    /// in case only ([`Code::Name`]); there are too many ([`Code::Limit`]).
    pub(super) fn add(&mut self, name: &Name, is_file: bool) -> Result<(), Trouble> {
        for prefix in name.prefixes() {
            let last = prefix.len() == name.as_str().len();
            let exact = self.keys.hash_one(prefix) & !1;
            let folded = match self.mix_case {
                true => exact,
                false => self.keys.hash_one(prefix.to_lowercase()),
            };
            let entry = exact | u64::from(last && is_file);
            match self.seen.get(&folded) {
                None => {
                    if self.seen.len() == self.limit {
                        let limit = self.limit;
                        return Err(Trouble::new(
                            Code::Limit,
                            format_args!("{name}: more than {limit} names of files and folders"),
                        ));
                    }
                    self.seen.insert(folded, entry);
                }
                Some(&other) if other & !1 != exact => {
                    return Err(Trouble::new(
                        Code::Name,
                        format_args!("{name}: `{prefix}` differs from another name in case only"),
                    ));
                }
                Some(&other) if other & 1 != 0 || entry & 1 != 0 => {
                    return Err(Trouble::new(
                        Code::Name,
                        format_args!("{name}: `{prefix}` was sent before"),
                    ));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(names: &mut Names, name: &str, is_file: bool) -> Result<(), Code> {
        let name = Name::parse(name.as_bytes()).unwrap();
        names.add(&name, is_file).map_err(|trouble| trouble.code)
    }

    #[test]
    fn names_that_differ_in_case_only_collide_wherever_they_differ() {
        let mut names = Names::new(100, false);
        assert_eq!(add(&mut names, "a/b", true), Ok(()));
        assert_eq!(add(&mut names, "a/c", true), Ok(()));
        assert_eq!(add(&mut names, "a", false), Ok(()));
        assert_eq!(add(&mut names, "a/B", true), Err(Code::Name));
        assert_eq!(add(&mut names, "A/d", true), Err(Code::Name));
        assert_eq!(add(&mut names, "a/b", true), Err(Code::Name));
        assert_eq!(add(&mut names, "a/b/c", true), Err(Code::Name), "a file is not a folder");
        assert_eq!(add(&mut names, "a", true), Err(Code::Name), "a folder is not a file");
        assert_eq!(add(&mut names, "STRASSE", true), Ok(()));
        assert_eq!(add(&mut names, "Ä", true), Ok(()));
        assert_eq!(add(&mut names, "ä", true), Err(Code::Name));
    }

    #[test]
    fn case_may_be_mixed_where_that_is_wanted_and_their_number_is_limited() {
        let mut names = Names::new(3, true);
        assert_eq!(add(&mut names, "a", true), Ok(()));
        assert_eq!(add(&mut names, "A", true), Ok(()));
        assert_eq!(add(&mut names, "a", true), Err(Code::Name));
        assert_eq!(add(&mut names, "x/y", true), Err(Code::Limit));
    }
}
