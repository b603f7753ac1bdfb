//! A pile in a line: `bytes|framing(prefix=u16be, max=4096)|echo`.

use mbuf::stack::Edge;

use super::{
    Registry,
    error::{Fault, Span},
    options::Given,
    plan::{Key, Layer, Limits, Plan},
};

/// Reads and checks a pile.
pub(super) fn parse(registry: &Registry, source: &str) -> Result<Plan, Fault> {
    let mut reader = Reader { source, at: 0 };
    let mut edge = None;
    let mut layers: Vec<Layer> = Vec::new();
    let mut keys: Vec<(Key, Span)> = Vec::new();
    loop {
        reader.skip_space();
        let (name, span) = reader.word();
        if layers.is_empty() && edge.is_none() && matches!(name, "bytes" | "packets") {
            edge = Some(if name == "bytes" { Edge::Bytes } else { Edge::Packets });
            reader.skip_space();
            if !reader.eat('|') {
                return Err(reader.unexpected("`|` and the lowest layer"));
            }
            continue;
        }
        if name.is_empty() && !reader.at_end_of_layer() {
            return Err(reader.unexpected("the name of a layer"));
        }
        let kind = registry.kind(name, span.clone())?.clone();
        let (given, key) = reader.details(&kind.name)?;
        layers.push(Layer { name: kind.name.clone(), kind, span: span.clone(), given });
        let after = reader.eat('|');
        if !after && let Key::Number(_, key_span) = &key {
            let message = format!("nothing is above layer `{name}`, so this key binds nothing");
            return Err(Fault::new(key_span.clone(), message));
        }
        keys.push((key, span));
        if after {
            continue;
        }
        if reader.peek().is_some() {
            return Err(reader.unexpected("`|` and the next layer, or the end"));
        }
        break;
    }
    let mut plan = Plan::new(source, layers, Limits::default());
    let bound = keys.len().saturating_sub(1);
    for (lower, (key, span)) in keys.into_iter().take(bound).enumerate() {
        plan.bind(lower, key, lower + 1, span)?;
    }
    plan.share();
    let made = plan.check()?;
    plan.port(0, edge, &made, |layer| {
        let name = &layer.name;
        let message = format!("layer `{name}` takes bytes or packets: say which the port carries");
        Fault::new(layer.span.clone(), message)
            .expected(format!("`bytes|{name}` or `packets|{name}`"))
    })?;
    Ok(plan)
}

struct Reader<'a> {
    source: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        &self.source[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn skip_space(&mut self) {
        self.at = self.source.len() - self.rest().trim_start().len();
    }

    fn eat(&mut self, wanted: char) -> bool {
        let there = self.peek() == Some(wanted);
        if there {
            self.at += wanted.len_utf8();
        }
        there
    }

    /// Letters, digits, `-` and `_`.
    fn word(&mut self) -> (&'a str, Span) {
        self.until(|c| !(c.is_alphanumeric() || matches!(c, '-' | '_')))
    }

    fn until(&mut self, stop: impl Fn(char) -> bool) -> (&'a str, Span) {
        let start = self.at;
        self.at += self.rest().find(stop).unwrap_or(self.rest().len());
        (&self.source[start..self.at], start..self.at)
    }

    fn at_end_of_layer(&self) -> bool {
        matches!(self.peek(), None | Some('|'))
    }

    /// Options and key of a layer, in either order, and the space after them.
    fn details(&mut self, layer: &str) -> Result<(Vec<Given>, Key), Fault> {
        let mut given = None;
        let mut key = None;
        loop {
            self.skip_space();
            let start = self.at;
            if given.is_none() && self.eat('(') {
                given = Some(self.options(layer, start)?);
            } else if key.is_none() && self.eat(':') {
                self.skip_space();
                let (text, span) =
                    self.until(|c| c.is_whitespace() || matches!(c, '|' | '(' | ':'));
                key = Some(Key::parse(text, span)?);
            } else {
                return Ok((given.unwrap_or_default(), key.unwrap_or(Key::Usual)));
            }
        }
    }

    /// `name=value, name=value)`; the parenthesis at `open` has been read.
    fn options(&mut self, layer: &str, open: usize) -> Result<Vec<Given>, Fault> {
        let mut given = Vec::new();
        loop {
            self.skip_space();
            if self.eat(')') {
                return Ok(given);
            }
            if self.peek().is_none() {
                return Err(unclosed(layer, open));
            }
            let (name, name_span) = self.word();
            if name.is_empty() {
                return Err(self.unexpected("an option such as `name=value`, or `)`"));
            }
            self.skip_space();
            if !self.eat('=') {
                return match self.peek() {
                    None => Err(unclosed(layer, open)),
                    Some(_) => {
                        let message = format!("option `{name}` has no value");
                        Err(Fault::new(name_span, message).expected(format!("`{name}=value`")))
                    }
                };
            }
            self.skip_space();
            let (value, value_span) = self.value(layer)?;
            let name = name.to_owned();
            given.push(Given { name, name_span, value, value_span });
            self.skip_space();
            match self.peek() {
                None => return Err(unclosed(layer, open)),
                Some(')') => {}
                Some(_) if self.eat(',') => {}
                Some(_) => return Err(self.unexpected("`,` and the next option, or `)`")),
            }
        }
    }

    fn value(&mut self, layer: &str) -> Result<(String, Span), Fault> {
        let start = self.at;
        if !self.eat('"') {
            let (text, span) = self.until(|c| matches!(c, ',' | ')' | '(' | '"'));
            let text = text.trim_end();
            return Ok((text.to_owned(), span.start..span.start + text.len()));
        }
        let mut value = String::new();
        let mut chars = self.rest().char_indices();
        while let Some((place, c)) = chars.next() {
            match c {
                '"' => {
                    self.at += place + 1;
                    return Ok((value, start..self.at));
                }
                '\\' => value.extend(chars.next().map(|(_, c)| c)),
                c => value.push(c),
            }
        }
        let message = format!("the quoted value of an option of layer `{layer}` has no end");
        Err(Fault::new(start..start + 1, message).expected("a closing `\"`"))
    }

    fn unexpected(&self, expected: &str) -> Fault {
        let fault = match self.peek() {
            Some(c) => Fault::new(self.at..self.at + c.len_utf8(), format!("unexpected `{c}`")),
            None => Fault::new(self.at..self.at, "the text ends too early"),
        };
        fault.expected(expected)
    }
}

fn unclosed(layer: &str, open: usize) -> Fault {
    let message = format!("the options of layer `{layer}` have no end");
    Fault::new(open..open + 1, message).expected("a closing `)`")
}
