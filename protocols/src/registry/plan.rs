//! What a text says, checked: [`Plan`].

use std::fmt;

use mbuf::{
    Pool,
    stack::{Edge, Protocol, Stack},
};

use super::{
    ComposeError, Keys, Kind, Options,
    error::{Fault, Span},
    options::Given,
};

/// A text that was read and checked, from which any number of stacks can be built: one for each
/// connection, say. Printed, it shows the ports, layers and keys from the bottom up.
///
/// ```
/// let registry = mbuf_protocols::Registry::standard();
/// let plan = registry.plan("framing(prefix=u8, max=100)|echo")?;
/// assert_eq!(plan.to_string(), "port 0 (bytes): framing\nframing > echo\n");
/// let pool = mbuf::Pool::with_memory(1 << 20)?;
/// let (first, second) = (plan.build(&pool)?, plan.build(&pool)?);
/// assert_eq!((first.ports(), second.ports()), (1, 1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Plan {
    source: String,
    layers: Vec<Layer>,
    bindings: Vec<(usize, Option<u64>, usize)>,
    ports: Vec<(usize, Edge)>,
    limits: Limits,
}

/// A binding of a [`Plan`]: two names, and the key between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound<'a> {
    /// The layer below.
    pub lower: &'a str,
    /// The key, or none for whatever has no other binding.
    pub key: Option<u64>,
    /// The layer above.
    pub upper: &'a str,
}

/// One layer, with what is needed to make it.
#[derive(Debug, Clone)]
pub(super) struct Layer {
    pub(super) kind: Kind,
    /// How the text calls it.
    pub(super) name: String,
    /// Where its kind is named.
    pub(super) span: Span,
    pub(super) given: Vec<Given>,
}

/// Of the stack as a whole.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Limits {
    pub(super) rounds: Option<usize>,
    pub(super) timers: Option<usize>,
    pub(super) high_water: Option<usize>,
    pub(super) max_chains: Option<usize>,
    pub(super) max_bytes: Option<usize>,
}

/// A key as it was given.
#[derive(Debug, Clone)]
pub(super) enum Key {
    /// Not at all: the usual one.
    Usual,
    /// As `*`.
    Rest,
    /// As a number, at that place.
    Number(u64, Span),
}

impl Key {
    /// `*`, or a number in base 10 or 16.
    pub(super) fn parse(text: &str, span: Span) -> Result<Self, Fault> {
        if text == "*" {
            return Ok(Self::Rest);
        }
        let number = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
            Some(digits) => u64::from_str_radix(digits, 16),
            None => text.parse(),
        };
        match number {
            Ok(number) => Ok(Self::Number(number, span)),
            Err(_) => Err(Fault::new(span, format!("bad key `{text}`"))
                .expected("a number such as 7 or 0x0800, or * for the rest")),
        }
    }
}

impl Plan {
    pub(super) fn new(source: &str, layers: Vec<Layer>, limits: Limits) -> Self {
        let (bindings, ports) = (Vec::new(), Vec::new());
        Self { source: source.to_owned(), layers, bindings, ports, limits }
    }

    /// Gives each layer the options that it shares with those next to it. All must be bound.
    pub(super) fn share(&mut self) {
        // What one has taken, the next may take from it.
        while (0..self.layers.len()).any(|place| self.share_one(place)) {}
    }

    /// Whether this layer took an option that it had not.
    fn share_one(&mut self, place: usize) -> bool {
        let given = |layer: usize, option: &String| -> Vec<Given> {
            let given = self.layers[layer].given.iter();
            given.filter(|given| given.name == *option).cloned().collect()
        };
        let taken = self.layers[place].kind.shared.iter().find_map(|option| {
            let mut next = self.bindings.iter().filter_map(|&(lower, _, upper)| {
                (lower == place).then_some(upper).or((upper == place).then_some(lower))
            });
            given(place, option).is_empty().then_some(())?;
            next.find_map(|layer| Some(given(layer, option)).filter(|given| !given.is_empty()))
        });
        let took = taken.is_some();
        self.layers[place].given.extend(taken.into_iter().flatten());
        took
    }

    /// Makes each layer once, to see whether its options are right.
    pub(super) fn check(&self) -> Result<Vec<Box<dyn Protocol>>, Fault> {
        self.layers.iter().map(Layer::make).collect()
    }

    /// Binds a layer above another. `span` is the place to blame where the key is missing.
    pub(super) fn bind(
        &mut self,
        lower: usize,
        key: Key,
        upper: usize,
        span: Span,
    ) -> Result<(), Fault> {
        let (below, above) = (&self.layers[lower], &self.layers[upper]);
        let fits = |what: &str, max: u64| format!("{what} from 0 to {max} ({max:#x})");
        match (key, &below.kind.keys) {
            (Key::Number(key, span), Keys::Needed(what, max) | Keys::Optional(what, max))
                if key > *max =>
            {
                let message = format!("key {key} is too large for layer `{}`", below.name);
                return Err(Fault::new(span, message).expected(fits(what, *max)));
            }
            (Key::Number(key, _), _) => self.bindings.push((lower, Some(key), upper)),
            (Key::Rest, _) => self.bindings.push((lower, None, upper)),
            (Key::Usual, keys) => {
                let usual = above.kind.under.iter().filter(|(name, _)| *name == below.kind.name);
                let usual: Vec<_> = usual.map(|&(_, key)| (lower, Some(key), upper)).collect();
                match (usual.is_empty(), keys) {
                    (false, _) => self.bindings.extend(usual),
                    (true, Keys::Free | Keys::Optional(..)) => {
                        self.bindings.push((lower, None, upper));
                    }
                    (true, Keys::Needed(what, max)) => {
                        let (lower, upper) = (&below.name, &above.name);
                        let message = format!("layer `{lower}` needs a key for `{upper}` above it");
                        return Err(Fault::new(span, message).expected(fits(what, *max)));
                    }
                }
            }
        }
        Ok(())
    }

    /// A port below a layer, for what that takes if nothing is said.
    pub(super) fn port(
        &mut self,
        layer: usize,
        edge: Option<Edge>,
        made: &[Box<dyn Protocol>],
        unknown: impl FnOnce(&Layer) -> Fault,
    ) -> Result<(), Fault> {
        let wanted = made[layer].info().below();
        match edge.unwrap_or(wanted) {
            Edge::Any => Err(unknown(&self.layers[layer])),
            edge => {
                self.ports.push((layer, edge));
                Ok(())
            }
        }
    }

    /// The layers' names, as the text calls them.
    ///
    /// ```
    /// let registry = mbuf_protocols::Registry::standard();
    /// let plan = registry.plan("framing(prefix=u8, max=100)|echo")?;
    /// assert_eq!(plan.layers().collect::<Vec<_>>(), ["framing", "echo"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn layers(&self) -> impl Iterator<Item = &str> {
        self.layers.iter().map(|layer| layer.name.as_str())
    }

    /// What is bound above what.
    ///
    /// ```
    /// let registry = mbuf_protocols::Registry::standard();
    /// let plan = registry.plan("framing(prefix=u8, max=100)|echo")?;
    /// let bound = plan.bindings().next().unwrap();
    /// assert_eq!((bound.lower, bound.key, bound.upper), ("framing", None, "echo"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn bindings(&self) -> impl Iterator<Item = Bound<'_>> {
        let name = |layer: usize| self.layers[layer].name.as_str();
        self.bindings.iter().map(move |&(lower, key, upper)| Bound {
            lower: name(lower),
            key,
            upper: name(upper),
        })
    }

    /// The ports in order: the layer above each, and what it carries.
    ///
    /// ```
    /// use mbuf::stack::Edge;
    ///
    /// let plan = mbuf_protocols::Registry::standard().plan("packets|echo")?;
    /// assert_eq!(plan.ports().collect::<Vec<_>>(), [("echo", Edge::Packets)]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn ports(&self) -> impl Iterator<Item = (&str, Edge)> {
        self.ports.iter().map(|&(layer, edge)| (self.layers[layer].name.as_str(), edge))
    }

    /// Makes the layers, and a stack of them. Allocates.
    ///
    /// # Errors
    /// What the stack or a layer refuses, with the place in the text of the first layer that is
    /// named.
    ///
    /// ```
    /// let pool = mbuf::Pool::with_memory(1 << 20)?;
    /// let plan = mbuf_protocols::Registry::standard().plan("packets|echo")?;
    /// assert_eq!(plan.build(&pool)?.ports(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn build(&self, pool: &Pool) -> Result<Stack, ComposeError> {
        self.assemble(pool).map_err(|fault| ComposeError::new(&self.source, fault))
    }

    /// The layer that the stack refuses: the one that it puts between backticks first. Where
    /// several have that name, the one above the layer that it names next, or the lowest.
    fn blamed(&self, message: &str, names: &[String]) -> Option<&Layer> {
        let quoted = message.split('`').skip(1).step_by(2);
        let mut quoted = quoted.filter(|word| names.iter().any(|name| name == word));
        let first = quoted.next()?;
        let next = quoted.next();
        let above = self.bindings.iter().find(|&&(lower, _, upper)| {
            names[upper] == first && next == Some(names[lower].as_str())
        });
        let place = above.map(|&(_, _, upper)| upper);
        place
            .or_else(|| names.iter().position(|name| name == first))
            .map(|place| &self.layers[place])
    }

    fn assemble(&self, pool: &Pool) -> Result<Stack, Fault> {
        let made = self.check()?;
        let names: Vec<String> = made.iter().map(|layer| layer.name().to_owned()).collect();
        let mut builder = Stack::builder(pool);
        let ids: Vec<_> = made.into_iter().map(|layer| builder.layer_boxed(layer)).collect();
        for &(lower, key, upper) in &self.bindings {
            match key {
                Some(key) => builder.bind(ids[lower], key, ids[upper]),
                None => builder.stack(ids[lower], ids[upper]),
            };
        }
        for &(layer, edge) in &self.ports {
            builder.port(edge, ids[layer]);
        }
        let Limits { rounds, timers, high_water, max_chains, max_bytes } = self.limits;
        if let Some(rounds) = rounds {
            builder.rounds(rounds);
        }
        if let Some(timers) = timers {
            builder.timers(timers);
        }
        if high_water.or(max_chains).or(max_bytes).is_some() {
            // The usual ones, as `StackBuilder::egress` says them.
            builder.egress(
                high_water.unwrap_or(128 << 10),
                max_chains.unwrap_or(4096),
                max_bytes.unwrap_or(4 << 20),
            );
        }
        builder.build().map_err(|error| {
            let message = error.to_string();
            let span = self.blamed(&message, &names).map_or(0..0, |layer| layer.span.clone());
            Fault::new(span, message)
        })
    }
}

impl Layer {
    fn make(&self) -> Result<Box<dyn Protocol>, Fault> {
        let mut options = Options::new(&self.kind.name, self.span.clone(), &self.given);
        let made = (self.kind.make)(&mut options);
        options.finish(made)
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (port, (layer, edge)) in self.ports().enumerate() {
            writeln!(f, "port {port} ({edge}): {layer}")?;
        }
        for Bound { lower, key, upper } in self.bindings() {
            match key {
                Some(key) => writeln!(f, "{lower} > {key} ({key:#x}) > {upper}")?,
                None => writeln!(f, "{lower} > {upper}")?,
            }
        }
        Ok(())
    }
}
