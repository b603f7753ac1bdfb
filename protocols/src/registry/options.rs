//! What a text says of one layer: [`Options`], and how a plugin takes them.

use std::{
    any::type_name,
    fmt::Display,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
    time::Duration,
};

use mbuf::BuildError;

use super::error::{Fault, Span, nearest};

/// One option as it was given.
#[derive(Debug, Clone)]
pub(super) struct Given {
    pub(super) name: String,
    pub(super) name_span: Span,
    pub(super) value: String,
    pub(super) value_span: Span,
}

/// The options of one layer. Its registration takes those that it knows, each as the type that it
/// wants; what is left over is an error that names it. No method panics, and each allocates little.
///
/// (In the examples of the methods, `registry` is a new [`Registry`](super::Registry), and `Echo`
/// stands for a layer.)
///
/// ```
/// use mbuf_protocols::{Echo, Registry};
///
/// let mut registry = Registry::standard();
/// registry.register("shout", |options| {
///     let volume: u8 = options.take("volume")?.unwrap_or(11);
///     assert_eq!(volume, 7);
///     Ok(Echo::new())
/// });
/// registry.plan("packets|shout(volume=7)")?;
/// let error = registry.plan("packets|shout(volume=7, mute=yes)").unwrap_err();
/// assert_eq!(error.message(), "layer `shout` has no option `mute`");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Options {
    kind: String,
    span: Span,
    given: Vec<(Given, bool)>,
    /// All names that were asked for.
    known: Vec<String>,
    /// The option whose absence was the error.
    missing: Option<String>,
}

/// Why a layer could not be made from its options. Made by `?` from a [`BuildError`], or by
/// [`Refused::new`] and [`Options::refuse`].
#[derive(Debug)]
pub struct Refused(pub(super) Reason);

#[derive(Debug)]
pub(super) enum Reason {
    /// At a place that is known.
    At(Fault),
    /// Of the layer as a whole.
    Layer(String),
}

impl Refused {
    /// The layer as a whole is refused; the error points at its name.
    ///
    /// ```
    /// use mbuf_protocols::{Echo, Registry, registry::Refused};
    ///
    /// let mut registry = Registry::empty();
    /// registry.register("never", |_| -> Result<Echo, _> { Err(Refused::new("not today")) });
    /// let error = registry.plan("packets|never").unwrap_err();
    /// assert_eq!((error.column(), error.message()), (9, "layer `never`: not today"));
    /// ```
    pub fn new(message: impl Display) -> Self {
        Self(Reason::Layer(message.to_string()))
    }
}

impl From<BuildError> for Refused {
    /// Allocates the message.
    fn from(error: BuildError) -> Self {
        let message = error.to_string();
        Self::new(message.strip_prefix("stack: ").unwrap_or(&message))
    }
}

impl From<Fault> for Refused {
    fn from(fault: Fault) -> Self {
        Self(Reason::At(fault))
    }
}

impl Options {
    pub(super) fn new(kind: &str, span: Span, given: &[Given]) -> Self {
        Self {
            kind: kind.to_owned(),
            span,
            given: given.iter().map(|given| (given.clone(), false)).collect(),
            known: Vec::new(),
            missing: None,
        }
    }

    /// The option's value, if it was given. A number may be written as `0x2a`, too.
    ///
    /// # Errors
    /// The value is not a `T`, or the option was given twice.
    ///
    /// ```
    /// # use mbuf_protocols::{Echo, Registry};
    /// # let mut registry = Registry::empty();
    /// registry.register("one", |options| {
    ///     assert_eq!(options.take::<u16>("port")?, Some(0x45));
    ///     assert_eq!(options.take::<bool>("quiet")?, None);
    ///     Ok(Echo::new())
    /// });
    /// registry.plan("packets|one(port=0x45)")?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn take<T>(&mut self, name: &str) -> Result<Option<T>, Refused>
    where
        T: FromStr,
        T::Err: Display,
    {
        self.take_with(name, expected::<T>(), parse)
    }

    /// As [`take`](Self::take), of an option that must be there.
    ///
    /// # Errors
    /// As `take`; and the option was not given.
    ///
    /// ```
    /// # use mbuf_protocols::{Echo, Registry};
    /// # let mut registry = Registry::empty();
    /// registry.register("one", |options| {
    ///     options.required::<u16>("port")?;
    ///     Ok(Echo::new())
    /// });
    /// let error = registry.plan("packets|one").unwrap_err();
    /// assert_eq!(error.message(), "layer `one` needs the option `port`");
    /// assert_eq!(error.expected(), Some("`port=` a whole number from 0 to 65535"));
    /// ```
    pub fn required<T>(&mut self, name: &str) -> Result<T, Refused>
    where
        T: FromStr,
        T::Err: Display,
    {
        self.required_with(name, expected::<T>(), parse)
    }

    /// All values of an option that may be given several times (in TOML: as an array).
    ///
    /// # Errors
    /// One of the values is not a `T`.
    ///
    /// ```
    /// # use mbuf_protocols::{Echo, Registry};
    /// # let mut registry = Registry::empty();
    /// registry.register("several", |options| {
    ///     assert_eq!(options.take_all::<u8>("n")?, [1, 2]);
    ///     Ok(Echo::new())
    /// });
    /// registry.plan("packets|several(n=1, n=2)")?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn take_all<T>(&mut self, name: &str) -> Result<Vec<T>, Refused>
    where
        T: FromStr,
        T::Err: Display,
    {
        self.ask(name);
        let mut values = Vec::new();
        while let Some(place) = self.find(name) {
            values.push(self.parse_at(place, expected::<T>(), parse)?);
        }
        Ok(values)
    }

    /// As [`take`](Self::take), with a function of one's own and words for what it expects.
    ///
    /// # Errors
    /// Those of the function; the option was given twice.
    ///
    /// ```
    /// # use mbuf_protocols::{Echo, Registry};
    /// # let mut registry = Registry::empty();
    /// registry.register("own", |options| {
    ///     let level = options.take_with("level", "low or high", |text| match text {
    ///         "low" => Ok(0),
    ///         "high" => Ok(1),
    ///         _ => Err("no such level"),
    ///     })?;
    ///     assert_eq!(level, Some(1));
    ///     Ok(Echo::new())
    /// });
    /// registry.plan("packets|own(level=high)")?;
    /// let error = registry.plan("packets|own(level=mid)").unwrap_err();
    /// assert_eq!(error.expected(), Some("low or high"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn take_with<T, E: Display>(
        &mut self,
        name: &str,
        expected: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Result<Option<T>, Refused> {
        self.ask(name);
        let Some(place) = self.find(name) else { return Ok(None) };
        let value = self.parse_at(place, expected, parse)?;
        if let Some(again) = self.find(name) {
            let span = self.given[again].0.name_span.clone();
            let message = format!("option `{name}` of layer `{}` is given twice", self.kind);
            return Err(Fault::new(span, message).into());
        }
        Ok(Some(value))
    }

    /// As [`required`](Self::required), with a function of one's own.
    ///
    /// # Errors
    /// As `take_with`; and the option was not given.
    ///
    /// ```
    /// # use mbuf_protocols::{Echo, Registry};
    /// # let mut registry = Registry::empty();
    /// registry.register("own", |options| {
    ///     options.required_with("name", "a name", |text| Ok::<_, String>(text.to_owned()))?;
    ///     Ok(Echo::new())
    /// });
    /// let error = registry.plan("packets|own").unwrap_err();
    /// assert_eq!(error.expected(), Some("`name=` a name"));
    /// ```
    pub fn required_with<T, E: Display>(
        &mut self,
        name: &str,
        expected: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Result<T, Refused> {
        if let Some(value) = self.take_with(name, expected, parse)? {
            return Ok(value);
        }
        self.missing = Some(name.to_owned());
        let message = format!("layer `{}` needs the option `{name}`", self.kind);
        Err(Fault::new(self.span.clone(), message)
            .expected(format!("`{name}=` {expected}").trim_end())
            .into())
    }

    /// A time: `250us`, `20ms`, `1.5s`, `5m`, `2h`.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    ///
    /// ```
    /// # use mbuf_protocols::{Echo, Registry};
    /// # let mut registry = Registry::empty();
    /// use std::time::Duration;
    ///
    /// registry.register("slow", |options| {
    ///     assert_eq!(options.duration("after")?, Some(Duration::from_millis(1500)));
    ///     Ok(Echo::new())
    /// });
    /// registry.plan("packets|slow(after=1.5s)")?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn duration(&mut self, name: &str) -> Result<Option<Duration>, Refused> {
        self.take_with(name, "a time such as 250us, 20ms, 1.5s, 5m or 2h", parse_duration)
    }

    /// A refusal of the option's value, or of the layer where it was not given.
    ///
    /// ```
    /// # use mbuf_protocols::{Echo, Registry};
    /// # let mut registry = Registry::empty();
    /// registry.register("even", |options| {
    ///     match options.take("n")? {
    ///         Some(n) if n % 2 == 1 => Err(options.refuse("n", format_args!("{n} is odd"))),
    ///         Some::<u8>(_) | None => Ok(Echo::new()),
    ///     }
    /// });
    /// let error = registry.plan("packets|even(n=3)").unwrap_err();
    /// assert_eq!((error.column(), error.message()), (16, "layer `even`: 3 is odd"));
    /// ```
    pub fn refuse(&self, name: &str, message: impl Display) -> Refused {
        match self.given.iter().find(|(given, _)| given.name == name) {
            Some((given, _)) => {
                let message = format!("layer `{}`: {message}", self.kind);
                Fault::new(given.value_span.clone(), message).into()
            }
            None => Refused::new(message),
        }
    }

    /// What the registration answered, or what it left over.
    pub(super) fn finish<T>(self, made: Result<T, Refused>) -> Result<T, Fault> {
        let left = self.given.iter().find(|(_, taken)| !taken).map(|(given, _)| given);
        // An option that is missing is often there under a wrong name.
        if let Some(left) = left.filter(|left| made.is_ok() || self.is_missing_for(&left.name)) {
            let what = format!("layer `{}` has no option `{}`", self.kind, left.name);
            let known = self.known.iter().map(String::as_str);
            return Err(Fault::unknown(left.name_span.clone(), what, &left.name, known));
        }
        made.map_err(|Refused(reason)| match reason {
            Reason::At(fault) => fault,
            Reason::Layer(message) => {
                Fault::new(self.span.clone(), format!("layer `{}`: {message}", self.kind))
            }
        })
    }

    fn is_missing_for(&self, name: &str) -> bool {
        self.missing
            .as_deref()
            .is_some_and(|missing| nearest(name, [missing].into_iter()).is_some())
    }

    fn ask(&mut self, name: &str) {
        if !self.known.iter().any(|known| known == name) {
            self.known.push(name.to_owned());
        }
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.given.iter().position(|(given, taken)| !taken && given.name == name)
    }

    fn parse_at<T, E: Display>(
        &mut self,
        place: usize,
        expected: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Result<T, Refused> {
        let (given, taken) = &mut self.given[place];
        *taken = true;
        parse(&given.value).map_err(|error| {
            let Given { name, value, value_span, .. } = given;
            let kind = &self.kind;
            let message =
                format!("bad value `{value}` for option `{name}` of layer `{kind}`: {error}");
            let fault = Fault::new(value_span.clone(), message);
            if expected.is_empty() { fault } else { fault.expected(expected) }.into()
        })
    }
}

/// As the type does it, and numbers also in base 16.
fn parse<T: FromStr>(text: &str) -> Result<T, T::Err> {
    text.parse().or_else(|error| {
        let digits = text.strip_prefix("0x").map(|digits| u128::from_str_radix(digits, 16));
        match digits {
            Some(Ok(number)) => number.to_string().parse().map_err(|_| error),
            _ => Err(error),
        }
    })
}

/// "20ms" and the like.
fn parse_duration(text: &str) -> Result<Duration, &'static str> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().map_err(|_| "no number")?;
    let seconds = match unit.trim_start() {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "" => return Err("no unit"),
        _ => return Err("unknown unit"),
    };
    Duration::try_from_secs_f64(number * seconds).map_err(|_| "too long")
}

/// Words for the types that options usually have; none for others.
fn expected<T>() -> &'static str {
    let is = |names: &[&str]| names.contains(&type_name::<T>());
    if is(&[type_name::<u8>()]) {
        "a whole number from 0 to 255"
    } else if is(&[type_name::<u16>()]) {
        "a whole number from 0 to 65535"
    } else if is(&[type_name::<u32>(), type_name::<u64>(), type_name::<usize>()]) {
        "a whole number"
    } else if is(&[type_name::<bool>()]) {
        "true or false"
    } else if is(&[type_name::<IpAddr>()]) {
        "an IP address"
    } else if is(&[type_name::<Ipv4Addr>()]) {
        "an IPv4 address such as 192.0.2.1"
    } else if is(&[type_name::<Ipv6Addr>()]) {
        "an IPv6 address such as 2001:db8::1"
    } else {
        ""
    }
}
