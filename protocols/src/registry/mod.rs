//! Stacks from text: a pile in one line, a graph in TOML.
//!
//! ```text
//! bytes | framing(prefix=u16be, max=4096) | echo
//!   |        |        |       |               |
//!  edge    layer    option  value      the layer above
//!
//! ethernet | ipv4(address=192.0.2.1/24) | udp:7 | echo
//!                                              |
//!                          the key by which the next layer is bound above this one
//! ```
//!
//! A registry knows kinds of layers by name: [`Registry::standard`] those of this crate, and
//! [`Registry::register`] adds one's own in the same way. A text is checked as a whole before
//! anything is built, and what is wrong is said with its place ([`ComposeError`]).
//!
//! # A pile
//!
//! Layers from the bottom up, with `|` between them; spaces and line breaks are free. After the
//! name of a layer may come options in parentheses and a key after a colon:
//!
//! - An option is `name=value`, with `,` between options. A value that holds `,`, `(`, `)`, or
//!   spaces at its ends stands in double quotes, where `\"` and `\\` are those characters.
//! - A key is a number (`7`, `0x0800`). It may be left out where the layer above has a usual one:
//!   `ethernet|ipv4`, `udp|echo`. `:*` binds for what the layer hands up without a key, such as
//!   what `udp(any_port=true)` has for ports that nobody else is bound to.
//! - The first word may be `bytes` or `packets`: what the port below carries. It is needed only
//!   where the lowest layer takes either, such as `echo`.
//!
//! # A graph
//!
//! ```toml
//! [[layer]]
//! kind = "framing"          # one table a layer: its kind, and its options
//! prefix = "u16be"
//! max = 4096
//!
//! [[layer]]
//! name = "service"          # the name that the rest of the file uses; usually the kind
//! kind = "echo"
//!
//! [[bind]]
//! lower = "framing"
//! upper = "service"         # and `key = 7`, as in a pile
//!
//! [[port]]                  # port 0, then port 1, ...
//! layer = "framing"
//! edge = "bytes"            # where the layer takes either
//!
//! [stack]                   # may be left out, and so may each of these
//! rounds = 1024
//! timers = 1024
//! high_water = 131072       # bytes, as in `StackBuilder::egress`
//! max_chains = 4096
//! max_bytes = 4194304
//! ```

mod error;
mod graph;
mod options;
mod plan;
mod standard;
#[cfg(test)]
mod tests;
mod text;

use std::{fmt, sync::Arc};

use mbuf::{
    Pool,
    stack::{Protocol, Stack},
};

pub use error::ComposeError;
pub use options::{Options, Refused};
pub use plan::{Bound, Plan};

use error::{Fault, Span};

/// Kinds of layers by name. See the [module](self) for the texts that it reads.
///
/// ```
/// use mbuf::{Pool, stack::PortId};
/// use mbuf_protocols::Registry;
///
/// let pool = Pool::with_memory(8 << 20)?;
/// let registry = Registry::standard();
/// let mut stack = registry.build(&pool, "framing(prefix=u16be, max=4096)|echo")?;
/// stack.open();
/// stack.input_one(PortId(0), pool.chain_from(b"\x00\x02hi")?);
/// assert_eq!(stack.poll_output(PortId(0)).pop().unwrap().to_vec()?, b"\x00\x02hi");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Registry {
    /// Each name once.
    kinds: Vec<Kind>,
}

type Make = dyn Fn(&mut Options) -> Result<Box<dyn Protocol>, Refused> + Send + Sync;

/// One kind of layer, as it was registered: what else is known of it is told by its methods.
#[derive(Clone)]
pub struct Kind {
    name: String,
    aliases: Vec<String>,
    make: Arc<Make>,
    /// Below a layer of that kind it usually has these keys.
    under: Vec<(String, u64)>,
    keys: Keys,
    /// Options that it takes from the layers next to it, where it has none of its own.
    shared: Vec<String>,
}

/// What a kind says of the keys of what is above it.
#[derive(Debug, Clone)]
enum Keys {
    Free,
    /// What they are, and the greatest.
    Optional(String, u64),
    Needed(String, u64),
}

impl Registry {
    /// A registry that knows nothing. Allocates nothing.
    ///
    /// ```
    /// assert_eq!(mbuf_protocols::Registry::empty().names().count(), 0);
    /// ```
    pub const fn empty() -> Self {
        Self { kinds: Vec::new() }
    }

    /// A registry that knows the plugins of this crate.
    ///
    /// ```
    /// assert!(mbuf_protocols::Registry::standard().names().any(|name| name == "framing"));
    /// ```
    pub fn standard() -> Self {
        let mut registry = Self::empty();
        standard::register(&mut registry);
        registry
    }

    /// Adds a kind of layer, made from its options each time that a stack is built. One that has
    /// this name already is replaced.
    ///
    /// ```
    /// use mbuf_protocols::{Discard, Registry};
    ///
    /// let mut registry = Registry::standard();
    /// registry.register("sink", |_| Ok(Discard::new())).alias("null").under("udp", 9);
    /// assert_eq!(registry.plan("packets|null")?.to_string(), "port 0 (packets): sink\n");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn register<P: Protocol + 'static>(
        &mut self,
        name: &str,
        make: impl Fn(&mut Options) -> Result<P, Refused> + Send + Sync + 'static,
    ) -> &mut Kind {
        self.kinds.retain(|kind| kind.name != name);
        for kind in &mut self.kinds {
            kind.aliases.retain(|alias| alias != name);
        }
        let make = move |options: &mut Options| {
            make(options).map(|layer| Box::new(layer) as Box<dyn Protocol>)
        };
        let place = self.kinds.len();
        self.kinds.push(Kind {
            name: name.to_owned(),
            aliases: Vec::new(),
            make: Arc::new(make),
            under: Vec::new(),
            keys: Keys::Free,
            shared: Vec::new(),
        });
        &mut self.kinds[place]
    }

    /// The names of all kinds, without aliases, in the order in which they were registered.
    ///
    /// ```
    /// use mbuf_protocols::{Echo, Registry};
    ///
    /// let mut registry = Registry::empty();
    /// registry.register("mirror", |_| Ok(Echo::new()));
    /// assert!(registry.names().eq(["mirror"]));
    /// ```
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.kinds.iter().map(|kind| kind.name.as_str())
    }

    /// Reads a pile and checks all of it except what only the stack can check. Allocates.
    ///
    /// # Errors
    /// What is wrong with the text, with its place.
    ///
    /// ```
    /// let registry = mbuf_protocols::Registry::standard();
    /// let plan = registry.plan("packets|echo")?;
    /// assert_eq!(plan.layers().collect::<Vec<_>>(), ["echo"]);
    /// # Ok::<(), mbuf_protocols::registry::ComposeError>(())
    /// ```
    pub fn plan(&self, text: &str) -> Result<Plan, ComposeError> {
        text::parse(self, text).map_err(|fault| ComposeError::new(text, fault))
    }

    /// Reads a graph in TOML, as [`plan`](Self::plan) reads a pile.
    ///
    /// # Errors
    /// What is wrong with the text, with its place.
    ///
    /// ```
    /// let registry = mbuf_protocols::Registry::standard();
    /// let text = r#"
    /// layer = [{ kind = "echo" }]
    /// port = [{ layer = "echo", edge = "packets" }]
    /// "#;
    /// assert_eq!(registry.plan_toml(text)?.to_string(), "port 0 (packets): echo\n");
    /// # Ok::<(), mbuf_protocols::registry::ComposeError>(())
    /// ```
    pub fn plan_toml(&self, text: &str) -> Result<Plan, ComposeError> {
        graph::parse(self, text).map_err(|fault| ComposeError::new(text, fault))
    }

    /// A stack from a pile: [`plan`](Self::plan), and [`Plan::build`].
    ///
    /// # Errors
    /// What is wrong with the text, or with the stack that it says, with the place.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let stack = mbuf_protocols::Registry::standard().build(&pool, "packets|discard")?;
    /// assert_eq!(stack.ports(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn build(&self, pool: &Pool, text: &str) -> Result<Stack, ComposeError> {
        self.plan(text)?.build(pool)
    }

    /// A stack from a graph: [`plan_toml`](Self::plan_toml), and [`Plan::build`].
    ///
    /// # Errors
    /// What is wrong with the text, or with the stack that it says, with the place.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let registry = mbuf_protocols::Registry::standard();
    /// let error = registry.build_toml(&pool, "layer = [{ kind = 'echo' }]").unwrap_err();
    /// assert_eq!(error.message(), "stack: it has no port: put one below a layer");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn build_toml(&self, pool: &Pool, text: &str) -> Result<Stack, ComposeError> {
        self.plan_toml(text)?.build(pool)
    }

    fn kind(&self, name: &str, span: Span) -> Result<&Kind, Fault> {
        let is = |kind: &&Kind| kind.name == name || kind.aliases.iter().any(|alias| alias == name);
        self.kinds.iter().find(is).ok_or_else(|| {
            let names = self.kinds.iter().flat_map(|kind| {
                std::iter::once(&kind.name).chain(&kind.aliases).map(String::as_str)
            });
            if name.is_empty() {
                return Fault::new(span, "the name of a layer is missing");
            }
            Fault::unknown(span, format!("unknown layer `{name}`"), name, names)
        })
    }
}

impl Kind {
    /// Another name for it.
    ///
    /// ```
    /// let mut registry = mbuf_protocols::Registry::standard();
    /// registry.register("mirror", |_| Ok(mbuf_protocols::Echo::new())).alias("glass");
    /// assert!(registry.plan("bytes|glass").is_ok());
    /// ```
    pub fn alias(&mut self, name: &str) -> &mut Self {
        self.aliases.push(name.to_owned());
        self
    }

    /// The key that it usually has above a layer of the kind `lower` (its name, not an alias).
    /// Said several times, it is bound as often, in that order.
    ///
    /// ```
    /// use mbuf_protocols::{Echo, Registry};
    ///
    /// let mut registry = Registry::standard();
    /// registry.register("switch", |_| Ok(Echo::new())).needs_key("a colour", 0xff);
    /// registry.register("mirror", |_| Ok(Echo::new())).under("switch", 3);
    /// let plan = registry.plan("packets|switch|mirror")?;
    /// assert_eq!(plan.bindings().next().unwrap().key, Some(3));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn under(&mut self, lower: &str, key: u64) -> &mut Self {
        self.under.push((lower.to_owned(), key));
        self
    }

    /// What is above it may have a key: what that is, and the greatest there is.
    ///
    /// ```
    /// use mbuf_protocols::{Echo, Registry};
    ///
    /// let mut registry = Registry::standard();
    /// registry.register("switch", |_| Ok(Echo::new())).takes_key("a colour", 0xff);
    /// assert!(registry.plan("packets|switch|echo").is_ok());
    /// let error = registry.plan("packets|switch:256|echo").unwrap_err();
    /// assert_eq!(error.expected(), Some("a colour from 0 to 255 (0xff)"));
    /// ```
    pub fn takes_key(&mut self, what: &str, max: u64) -> &mut Self {
        self.keys = Keys::Optional(what.to_owned(), max);
        self
    }

    /// What is above it must have a key.
    ///
    /// ```
    /// use mbuf_protocols::{Echo, Registry};
    ///
    /// let mut registry = Registry::standard();
    /// registry.register("switch", |_| Ok(Echo::new())).needs_key("a colour", 0xff);
    /// let error = registry.plan("packets|switch|echo").unwrap_err();
    /// assert_eq!(error.message(), "layer `switch` needs a key for `echo` above it");
    /// ```
    pub fn needs_key(&mut self, what: &str, max: u64) -> &mut Self {
        self.keys = Keys::Needed(what.to_owned(), max);
        self
    }

    /// Where it is not given this option, it takes that of a layer which it is bound to: what ARP
    /// is told of the station below it and the host above it need not be said twice.
    ///
    /// ```
    /// use mbuf_protocols::{Echo, Registry};
    ///
    /// let mut registry = Registry::standard();
    /// registry.register("host", |options| {
    ///     assert_eq!(options.take("number")?, Some(7));
    ///     Ok(Echo::new())
    /// });
    /// let helper = registry.register("helper", |options| {
    ///     assert_eq!(options.take("number")?, Some(7));
    ///     Ok(Echo::new())
    /// });
    /// helper.shares("number");
    /// assert!(registry.plan("packets|helper|host(number=7)").is_ok());
    /// ```
    pub fn shares(&mut self, option: &str) -> &mut Self {
        self.shared.push(option.to_owned());
        self
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kind")
            .field("name", &self.name)
            .field("aliases", &self.aliases)
            .field("under", &self.under)
            .field("keys", &self.keys)
            .field("shared", &self.shared)
            .finish_non_exhaustive()
    }
}
