//! What is wrong with a text, and where: [`ComposeError`].

use std::{fmt, ops::Range};

/// A place in the text, in bytes.
pub(super) type Span = Range<usize>;

/// Why a text does not make a stack. Printed, it shows the place:
///
/// ```
/// let registry = mbuf_protocols::Registry::standard();
/// let error = registry.plan("framing(prefix=u16be, max=lots)|echo").unwrap_err();
/// assert_eq!((error.line(), error.column()), (1, 27));
/// assert_eq!(
///     error.to_string(),
///     "\
/// 1:27: bad value `lots` for option `max` of layer `framing`: invalid digit found in string
///   |
/// 1 | framing(prefix=u16be, max=lots)|echo
///   |                           ^^^^
///   = expected a whole number"
/// );
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ComposeError {
    line: usize,
    column: usize,
    message: String,
    expected: Option<String>,
    shown: String,
    width: usize,
}

impl ComposeError {
    pub(super) fn new(source: &str, fault: Fault) -> Self {
        let at = floor(source, fault.span.start);
        let start = source[..at].rfind('\n').map_or(0, |end| end + 1);
        let end = source[at..].find('\n').map_or(source.len(), |length| at + length);
        let shown = source[start..end].trim_end_matches('\r').to_owned();
        let stop = floor(source, fault.span.end.clamp(at, end));
        Self {
            line: source[..start].matches('\n').count() + 1,
            column: source[start..at].chars().count() + 1,
            message: fault.message,
            expected: fault.expected,
            shown,
            width: source[at..stop].chars().count().max(1),
        }
    }

    /// The line of the place, counted from 1.
    ///
    /// ```
    /// let registry = mbuf_protocols::Registry::standard();
    /// assert_eq!(registry.plan("bytes|\nehco").unwrap_err().line(), 2);
    /// ```
    pub fn line(&self) -> usize {
        self.line
    }

    /// The column of the place, in characters, counted from 1.
    ///
    /// ```
    /// let registry = mbuf_protocols::Registry::standard();
    /// assert_eq!(registry.plan("bytes|ehco").unwrap_err().column(), 7);
    /// ```
    pub fn column(&self) -> usize {
        self.column
    }

    /// What is wrong, without the place.
    ///
    /// ```
    /// let registry = mbuf_protocols::Registry::standard();
    /// let error = registry.plan("bytes|ehco").unwrap_err();
    /// assert_eq!(error.message(), "unknown layer `ehco`; did you mean `echo`?");
    /// ```
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What would have been right there, where that can be said.
    ///
    /// ```
    /// let registry = mbuf_protocols::Registry::standard();
    /// let error = registry.plan("framing(max=1, prefix=u16)|echo").unwrap_err();
    /// assert_eq!(error.expected(), Some("u8, u16be, u16le, u32be, u32le or varint"));
    /// ```
    pub fn expected(&self) -> Option<&str> {
        self.expected.as_deref()
    }
}

impl fmt::Display for ComposeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.line.to_string();
        let margin = " ".repeat(number.len());
        // A tab before the place is a tab below it, so that the caret stands where it should.
        let before = self.shown.chars().take(self.column - 1);
        let indent: String = before.map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        writeln!(f, "{number}:{}: {}", self.column, self.message)?;
        writeln!(f, "{margin} |")?;
        writeln!(f, "{number} | {}", self.shown)?;
        write!(f, "{margin} | {indent}{}", "^".repeat(self.width))?;
        match &self.expected {
            Some(expected) => write!(f, "\n{margin} = expected {expected}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ComposeError {}

/// A [`ComposeError`] before its text is at hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) span: Span,
    pub(super) message: String,
    pub(super) expected: Option<String>,
}

impl Fault {
    pub(super) fn new(span: Span, message: impl Into<String>) -> Self {
        Self { span, message: message.into(), expected: None }
    }

    pub(super) fn expected(mut self, expected: impl Into<String>) -> Self {
        self.expected = Some(expected.into());
        self
    }

    /// `what` is not known, and perhaps one of these was meant.
    pub(super) fn unknown<'a>(
        span: Span,
        what: String,
        word: &str,
        known: impl Iterator<Item = &'a str> + Clone,
    ) -> Self {
        if let Some(nearest) = nearest(word, known.clone()) {
            return Self::new(span, format!("{what}; did you mean `{nearest}`?"));
        }
        let mut known: Vec<_> = known.collect();
        known.sort_unstable();
        known.dedup();
        let fault = Self::new(span, what);
        if known.is_empty() { fault } else { fault.expected(one_of(&known)) }
    }
}

/// The known name that is nearest to a word, if it is near at all.
pub(super) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    let near = known.map(|name| match word.starts_with(name) || name.starts_with(&word) {
        true if word.len().min(name.len()) >= 2 => (1, name),
        _ => (strsim::damerau_levenshtein(&word, name), name),
    });
    let (distance, name) = near.min()?;
    let reach = name.chars().count().max(word.chars().count());
    (distance * 2 < reach && distance <= 3).then_some(name)
}

/// "a, b or c".
pub(super) fn one_of(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [only] => (*only).to_owned(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

/// The start of the character that a place lies in.
fn floor(source: &str, at: usize) -> usize {
    let mut at = at.min(source.len());
    while !source.is_char_boundary(at) {
        at -= 1;
    }
    at
}
