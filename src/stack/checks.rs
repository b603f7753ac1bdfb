//! What a stack is refused for, before traffic flows.

use super::{
    Edge, LayerInfo,
    builder::Binding,
    graph::{NONE, SlotPlace},
};
use crate::{meta::SLOT_BYTES, pool::Pool};

/// What the builder was told.
pub(super) struct Plan<'a> {
    pub(super) names: Vec<&'a str>,
    pub(super) infos: &'a [LayerInfo],
    pub(super) bindings: &'a [Binding],
    /// What each port carries, and the layer above it.
    pub(super) ports: Vec<(Edge, u16)>,
}

impl Plan<'_> {
    fn name(&self, layer: u16) -> &str {
        self.names[layer as usize]
    }

    fn is_layer(&self, layer: u16) -> bool {
        usize::from(layer) < self.infos.len()
    }
}

/// Layers, and edges, that a stack may have.
const MAX_PARTS: usize = 4096;
const _: () = assert!(MAX_PARTS < NONE as usize);

/// Steps that the search for the longest path may take: far more than any graph that a person
/// would draw needs, so that one that a program draws cannot stop it.
const MAX_STEPS: usize = 1 << 16;

/// All checks. The answer is where the slots lie.
pub(super) fn check(plan: &Plan<'_>, pool: &Pool) -> Result<Vec<SlotPlace>, String> {
    check_bindings(plan)?;
    check_reachable(plan)?;
    check_edges(plan)?;
    let slots = place_slots(plan)?;
    check_headroom(plan, pool.headroom(), pool.name())?;
    Ok(slots)
}

/// The ports that can be reached downwards from each layer, in order. O(layers x bindings).
pub(super) fn ports_below(plan: &Plan<'_>) -> Vec<Vec<u16>> {
    let mut below = vec![Vec::new(); plan.infos.len()];
    for (port, &(_, layer)) in plan.ports.iter().enumerate() {
        below[layer as usize].push(port as u16);
    }
    let mut grew = true;
    while std::mem::take(&mut grew) {
        for binding in plan.bindings {
            let more: Vec<u16> = below[binding.lower as usize]
                .iter()
                .filter(|port| !below[binding.upper as usize].contains(port))
                .copied()
                .collect();
            grew |= !more.is_empty();
            below[binding.upper as usize].extend(more);
        }
    }
    below.iter_mut().for_each(|ports| ports.sort_unstable());
    below
}

/// What each link carries: those of the bindings, then those of the ports. [`Edge::Any`] is left
/// only where nothing below says anything.
pub(super) fn kinds(plan: &Plan<'_>) -> Vec<Edge> {
    let mut kinds: Vec<Edge> = vec![Edge::Any; plan.bindings.len()];
    kinds.extend(plan.ports.iter().map(|&(edge, _)| edge));
    let mut changed = true;
    while std::mem::take(&mut changed) {
        for (place, binding) in plan.bindings.iter().enumerate() {
            if kinds[place] == Edge::Any {
                kinds[place] = offered(plan, &kinds, binding.lower);
                changed |= kinds[place] != Edge::Any;
            }
        }
    }
    kinds
}

/// What a layer offers above: what it declared, or what is below it.
fn offered(plan: &Plan<'_>, kinds: &[Edge], layer: u16) -> Edge {
    match plan.infos[layer as usize].above() {
        Edge::Any => below(plan, kinds, layer).find(|&kind| kind != Edge::Any).unwrap_or(Edge::Any),
        kind => kind,
    }
}

/// The kinds of the links below a layer.
fn below<'a>(plan: &'a Plan<'_>, kinds: &'a [Edge], layer: u16) -> impl Iterator<Item = Edge> + 'a {
    let uppers = plan.bindings.iter().map(|binding| binding.upper);
    let uppers = uppers.chain(plan.ports.iter().map(|&(_, above)| above));
    uppers.zip(kinds).filter(move |&(upper, _)| upper == layer).map(|(_, &kind)| kind)
}

fn check_bindings(plan: &Plan<'_>) -> Result<(), String> {
    if plan.infos.is_empty() {
        return Err("it has no layers".into());
    }
    if plan.ports.is_empty() {
        return Err("it has no port: put one below a layer".into());
    }
    let (layers, bindings, ports) = (plan.infos.len(), plan.bindings.len(), plan.ports.len());
    if layers > MAX_PARTS || bindings + ports > MAX_PARTS {
        return Err(format!("{layers} layers, {bindings} bindings and {ports} ports are too many"));
    }
    let named = plan.bindings.iter().flat_map(|binding| [binding.lower, binding.upper]);
    if !named.chain(plan.ports.iter().map(|&(_, layer)| layer)).all(|id| plan.is_layer(id)) {
        return Err(format!("a binding names a layer of another builder (this one has {layers})"));
    }
    for (place, binding) in plan.bindings.iter().enumerate() {
        let lower = plan.name(binding.lower);
        let same = |other: &&Binding| other.lower == binding.lower && other.key == binding.key;
        if let Some(other) = plan.bindings[..place].iter().find(same) {
            let (first, second) = (plan.name(other.upper), plan.name(binding.upper));
            return Err(match binding.key {
                Some(key) => {
                    format!("layer `{lower}` hands key {key:#x} to both `{first}` and `{second}`")
                }
                None => format!(
                    "layer `{lower}` has both `{first}` and `{second}` above it without a key"
                ),
            });
        }
    }
    Ok(())
}

fn check_reachable(plan: &Plan<'_>) -> Result<(), String> {
    match ports_below(plan).iter().position(Vec::is_empty) {
        None => Ok(()),
        Some(layer) => Err(format!(
            "layer `{}` has no way down to a port: bind it above a layer, or put a port below it",
            plan.name(layer as u16)
        )),
    }
}

fn check_edges(plan: &Plan<'_>) -> Result<(), String> {
    for (port, &(edge, layer)) in plan.ports.iter().enumerate() {
        let wanted = plan.infos[layer as usize].below();
        if edge == Edge::Any {
            return Err(format!("port {port} must carry bytes or packets"));
        }
        if wanted != Edge::Any && wanted != edge {
            let layer = plan.name(layer);
            return Err(format!("layer `{layer}` takes {wanted}, but port {port} carries {edge}"));
        }
    }
    let kinds = kinds(plan);
    for (binding, &kind) in plan.bindings.iter().zip(&kinds) {
        let wanted = plan.infos[binding.upper as usize].below();
        if wanted != Edge::Any && wanted != kind {
            let (lower, upper) = (plan.name(binding.lower), plan.name(binding.upper));
            return Err(format!("layer `{upper}` takes {wanted}, but `{lower}` offers {kind}"));
        }
    }
    for (layer, info) in plan.infos.iter().enumerate() {
        let layer = layer as u16;
        let mixed = below(plan, &kinds, layer).any(|kind| kind == Edge::Bytes)
            && below(plan, &kinds, layer).any(|kind| kind == Edge::Packets);
        let passes_on = plan.bindings.iter().any(|binding| binding.lower == layer);
        if mixed && info.above() == Edge::Any && passes_on {
            return Err(format!(
                "layer `{}` offers what is below it, but that is bytes on one edge and packets on \
                 another",
                plan.name(layer)
            ));
        }
    }
    Ok(())
}

fn place_slots(plan: &Plan<'_>) -> Result<Vec<SlotPlace>, String> {
    let claims = plan.infos.iter().enumerate();
    let claims = claims.flat_map(|(layer, info)| info.slots.iter().map(move |slot| (layer, slot)));
    let claims: Vec<_> = claims.collect();
    let mut places = Vec::new();
    let mut used = 0_usize;
    for (place, &(layer, claim)) in claims.iter().enumerate() {
        let name = plan.name(layer as u16);
        let (slot, bytes) = (claim.type_name, claim.bytes);
        let same = claims[..place].iter().find(|(_, other)| other.type_id == claim.type_id);
        match same {
            Some((_, other)) if other.shared && claim.shared => continue,
            Some(&(other, _)) => {
                let first = plan.name(other as u16);
                return Err(format!(
                    "the slot of type {slot} is claimed by `{first}` and by `{name}`"
                ));
            }
            None => {}
        }
        if used.saturating_add(bytes) > SLOT_BYTES {
            return Err(format!(
                "the slot of type {slot} that layer `{name}` claims takes {bytes} bytes, but only \
                 {} of {SLOT_BYTES} are left",
                SLOT_BYTES - used
            ));
        }
        places.push(SlotPlace { type_id: claim.type_id, offset: used });
        used += bytes;
    }
    Ok(places)
}

/// Walks every way down that takes no edge twice, which goes once round each cycle, and adds up
/// what is prepended.
fn check_headroom(plan: &Plan<'_>, headroom: usize, pool: &str) -> Result<(), String> {
    let mut walk =
        Walk { plan, headroom, used: vec![false; plan.bindings.len()], path: Vec::new(), steps: 0 };
    for layer in 0..plan.infos.len() as u16 {
        walk.down_from(layer, 0).map_err(|stop| match stop {
            Stop::TooManySteps => format!(
                "it has too many ways from layer `{}` down to a port to add up what is prepended",
                plan.name(layer)
            ),
            Stop::TooMuch { sum, path } => {
                let last = *path.last().expect("the path has the layer that was one too many");
                let names: Vec<_> = path.iter().map(|&layer| plan.name(layer)).collect();
                format!(
                    "layer `{}` prepends up to {} bytes, which makes {sum} on the way down {}, but \
                     pool `{pool}` has {headroom} bytes of headroom",
                    plan.name(last),
                    plan.infos[last as usize].max_prepend(),
                    names.join(" > "),
                )
            }
        })?;
    }
    Ok(())
}

enum Stop {
    TooManySteps,
    TooMuch { sum: usize, path: Vec<u16> },
}

struct Walk<'a> {
    plan: &'a Plan<'a>,
    headroom: usize,
    /// Bindings that the path has taken.
    used: Vec<bool>,
    path: Vec<u16>,
    steps: usize,
}

impl Walk<'_> {
    fn down_from(&mut self, layer: u16, sum: usize) -> Result<(), Stop> {
        self.steps += 1;
        if self.steps > MAX_STEPS {
            return Err(Stop::TooManySteps);
        }
        self.path.push(layer);
        let sum = sum.saturating_add(self.plan.infos[layer as usize].max_prepend());
        if sum > self.headroom {
            return Err(Stop::TooMuch { sum, path: std::mem::take(&mut self.path) });
        }
        for place in 0..self.plan.bindings.len() {
            if self.plan.bindings[place].upper == layer && !self.used[place] {
                self.used[place] = true;
                self.down_from(self.plan.bindings[place].lower, sum)?;
                self.used[place] = false;
            }
        }
        self.path.pop();
        Ok(())
    }
}
