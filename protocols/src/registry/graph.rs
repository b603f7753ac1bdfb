//! A graph in TOML.

use std::ops::Range;

use mbuf::stack::Edge;
use toml::{
    Spanned,
    de::{DeInteger, DeTable, DeValue},
};

use super::{
    Registry,
    error::{Fault, Span},
    options::Given,
    plan::{Key, Layer, Limits, Plan},
};

type Value<'a> = Spanned<DeValue<'a>>;

/// Reads and checks a graph.
pub(super) fn parse(registry: &Registry, source: &str) -> Result<Plan, Fault> {
    let table = DeTable::parse(source).map_err(|error| {
        let span = error.span().unwrap_or(0..0);
        Fault::new(span, format!("not TOML: {}", error.message()))
    })?;
    let root = Table { what: "the text", fields: table.get_ref(), span: table.span() };
    root.knows(&["layer", "bind", "port", "stack"])?;

    let layers = root.tables("layer")?;
    let layers: Result<Vec<Layer>, Fault> =
        layers.iter().map(|table| layer(registry, table)).collect();
    let mut layers = layers?;
    for place in 1..layers.len() {
        let (before, rest) = layers.split_at_mut(place);
        if let Some(first) = before.iter().find(|first| first.name == rest[0].name) {
            let message = format!("two layers are named `{}`", first.name);
            let fault = Fault::new(name_span(&root, place), message);
            return Err(fault.expected("another `name` for one of them"));
        }
    }

    let mut plan = Plan::new(source, layers, limits(&root)?);
    for bind in root.tables("bind")? {
        bind.knows(&["lower", "key", "upper"])?;
        let (lower, _) = bind.layer("lower", &plan)?;
        let (upper, span) = bind.layer("upper", &plan)?;
        plan.bind(lower, bind.key()?, upper, span)?;
    }
    plan.share();
    let made = plan.check()?;
    for port in root.tables("port")? {
        port.knows(&["layer", "edge"])?;
        let (layer, span) = port.layer("layer", &plan)?;
        plan.port(layer, port.edge()?, &made, |layer| {
            let message = format!("layer `{}` takes bytes or packets: say which", layer.name);
            Fault::new(span, message).expected("`edge = \"bytes\"` or `edge = \"packets\"`")
        })?;
    }
    Ok(plan)
}

/// Where a layer has its name.
fn name_span(root: &Table<'_>, place: usize) -> Span {
    let text = |table: &Table<'_>, field| table.text(field).ok().flatten().map(|(_, span)| span);
    let named = |table: &Table<'_>| text(table, "name").or_else(|| text(table, "kind"));
    root.tables("layer").ok().and_then(|tables| tables.get(place).and_then(named)).unwrap_or(0..0)
}

fn layer(registry: &Registry, table: &Table<'_>) -> Result<Layer, Fault> {
    let (kind, span) = table.needed("kind")?;
    let kind = registry.kind(kind, span.clone())?.clone();
    let name = table.text("name")?.map_or_else(|| kind.name.clone(), |(name, _)| name.to_owned());
    let mut given = Vec::new();
    for (key, value) in table.fields.iter() {
        let name = key.get_ref().as_ref();
        if matches!(name, "kind" | "name") {
            continue;
        }
        let values = match value.get_ref() {
            DeValue::Array(values) => values.iter().collect(),
            _ => vec![value],
        };
        for value in values {
            given.push(Given {
                name: name.to_owned(),
                name_span: key.span(),
                value: scalar(value).ok_or_else(|| {
                    let message = format!("option `{name}` of layer `{}` is no value", kind.name);
                    Fault::new(value.span(), message)
                        .expected("a string, a number, true or false, or an array of these")
                })?,
                value_span: inner(value),
            });
        }
    }
    given.sort_by_key(|given| given.name_span.start);
    Ok(Layer { kind, name, span, given })
}

fn limits(root: &Table<'_>) -> Result<Limits, Fault> {
    let Some(value) = root.fields.get("stack") else { return Ok(Limits::default()) };
    let Some(fields) = value.get_ref().as_table() else {
        return Err(Fault::new(value.span(), "`stack` is no table").expected("`[stack]`"));
    };
    let table = Table { what: "`[stack]`", fields, span: value.span() };
    table.knows(&["rounds", "timers", "high_water", "max_chains", "max_bytes"])?;
    Ok(Limits {
        rounds: table.count("rounds")?,
        timers: table.count("timers")?,
        high_water: table.count("high_water")?,
        max_chains: table.count("max_chains")?,
        max_bytes: table.count("max_bytes")?,
    })
}

/// A table, and how an error calls it.
struct Table<'a> {
    what: &'static str,
    fields: &'a DeTable<'a>,
    span: Range<usize>,
}

impl<'a> Table<'a> {
    /// Refuses fields that are not among these.
    fn knows(&self, known: &[&str]) -> Result<(), Fault> {
        let mut unknown: Vec<_> =
            self.fields.keys().filter(|key| !known.contains(&key.get_ref().as_ref())).collect();
        unknown.sort_by_key(|key| key.span().start);
        match unknown.first() {
            None => Ok(()),
            Some(key) => {
                let word = key.get_ref().as_ref();
                let what = format!("{} has no field `{word}`", self.what);
                Err(Fault::unknown(key.span(), what, word, known.iter().copied()))
            }
        }
    }

    /// The tables of an array of tables.
    fn tables(&self, name: &'static str) -> Result<Vec<Table<'a>>, Fault> {
        let Some(value) = self.fields.get(name) else { return Ok(Vec::new()) };
        let what = match name {
            "layer" => "`[[layer]]`",
            "bind" => "`[[bind]]`",
            _ => "`[[port]]`",
        };
        let refuse =
            |span| Fault::new(span, format!("`{name}` is no array of tables")).expected(what);
        let Some(array) = value.get_ref().as_array() else { return Err(refuse(value.span())) };
        let table = |value: &'a Value<'a>| match value.get_ref().as_table() {
            Some(fields) => Ok(Table { what, fields, span: value.span() }),
            None => Err(refuse(value.span())),
        };
        array.iter().map(table).collect()
    }

    /// A field that is a string.
    fn text(&self, name: &str) -> Result<Option<(&'a str, Span)>, Fault> {
        let Some(value) = self.fields.get(name) else { return Ok(None) };
        match value.get_ref().as_str() {
            Some(text) => Ok(Some((text, inner(value)))),
            None => Err(Fault::new(value.span(), format!("`{name}` is no string"))
                .expected(format!("`{name} = \"...\"`"))),
        }
    }

    fn needed(&self, name: &str) -> Result<(&'a str, Span), Fault> {
        self.text(name)?.ok_or_else(|| {
            Fault::new(self.span.clone(), format!("{} needs the field `{name}`", self.what))
                .expected(format!("`{name} = \"...\"`"))
        })
    }

    /// A field that names a layer.
    fn layer(&self, field: &str, plan: &Plan) -> Result<(usize, Span), Fault> {
        let (name, span) = self.needed(field)?;
        match plan.layers().position(|layer| layer == name) {
            Some(place) => Ok((place, span)),
            None => {
                let names: Vec<_> = plan.layers().collect();
                let what = format!("no layer is named `{name}`");
                Err(Fault::unknown(span, what, name, names.iter().copied()))
            }
        }
    }

    fn key(&self) -> Result<Key, Fault> {
        match self.fields.get("key") {
            None => Ok(Key::Usual),
            Some(value) => {
                let text = scalar(value).unwrap_or_else(|| "...".to_owned());
                Key::parse(&text, inner(value))
            }
        }
    }

    fn edge(&self) -> Result<Option<Edge>, Fault> {
        match self.text("edge")? {
            None => Ok(None),
            Some(("bytes", _)) => Ok(Some(Edge::Bytes)),
            Some(("packets", _)) => Ok(Some(Edge::Packets)),
            Some((other, span)) => {
                let what = format!("unknown edge `{other}`");
                let fault = Fault::unknown(span, what, other, ["bytes", "packets"].into_iter());
                Err(fault.expected("bytes or packets"))
            }
        }
    }

    /// A field that is a count.
    fn count(&self, name: &str) -> Result<Option<usize>, Fault> {
        let Some(value) = self.fields.get(name) else { return Ok(None) };
        let count = value.get_ref().as_integer().and_then(integer);
        match count.and_then(|count| usize::try_from(count).ok()) {
            Some(count) => Ok(Some(count)),
            None => Err(Fault::new(value.span(), format!("`{name}` is no count"))
                .expected("a whole number, 0 or greater")),
        }
    }
}

fn integer(integer: &DeInteger<'_>) -> Option<i128> {
    i128::from_str_radix(&integer.as_str().replace('_', ""), integer.radix()).ok()
}

/// A value as a pile would say it.
fn scalar(value: &Value<'_>) -> Option<String> {
    match value.get_ref() {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => integer(number).map(|number| number.to_string()),
        DeValue::Float(number) => Some(number.as_str().to_owned()),
        DeValue::Boolean(truth) => Some(truth.to_string()),
        DeValue::Datetime(time) => Some(time.to_string()),
        DeValue::Array(_) | DeValue::Table(_) => None,
    }
}

/// A string without its quotes; anything else whole.
fn inner(value: &Value<'_>) -> Span {
    let span = value.span();
    match value.get_ref() {
        // As long as it says: no escapes, and a quote at either end.
        DeValue::String(text) if span.len() == text.len() + 2 => span.start + 1..span.end - 1,
        _ => span,
    }
}
