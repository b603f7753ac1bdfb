//! What texts make, and what is said of those that are wrong.

use mbuf::{
    Chain,
    stack::{Context, DropReason, Edge, LayerInfo, Outcome, PortId, Protocol, Stack},
    testing,
};

use super::*;
use crate::{Discard, Echo};

/// A layer of somebody else's: two bytes of key before each packet.
struct Wire {
    name: &'static str,
    prepends: usize,
}

impl Protocol for Wire {
    fn name(&self) -> &str {
        self.name
    }

    fn info(&self) -> LayerInfo {
        LayerInfo::new(Edge::Packets, Edge::Packets).prepends(self.prepends).min_header(2)
    }

    fn input(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
        match chain.strip::<[u8; 2]>() {
            Ok(key) => cx.up_key(u16::from_be_bytes(key).into(), chain),
            Err(_) => cx.drop(chain, DropReason::SHORT),
        }
    }

    fn output(&mut self, mut chain: Chain, cx: &mut Context<'_>) -> Outcome {
        let key = u16::try_from(cx.key().unwrap_or(0)).unwrap_or(0);
        match chain.push(&key.to_be_bytes()) {
            Ok(()) => cx.down(chain),
            Err(_) => cx.drop(chain, DropReason::NO_BUFFERS),
        }
    }
}

/// The plugins of this crate, and some of somebody else's.
fn registry() -> Registry {
    let mut registry = Registry::standard();
    registry
        .register("wire", |options| {
            Ok(Wire { name: "wire", prepends: options.take("prepends")?.unwrap_or(2) })
        })
        .alias("ether")
        .needs_key("a colour", 0xffff);
    registry
        .register("wide", |_| Ok(Wire { name: "wide", prepends: 30 }))
        .under("wire", 0x0800)
        .takes_key("a size", 0xffff);
    registry.register("twice", |_| Ok(Echo::new())).under("wire", 1).under("wire", 2);
    registry.register("never", |_| -> Result<Discard, _> { Err(Refused::new("not today")) });
    registry
}

fn refusal(text: &str) -> String {
    registry().build(&testing::pool(), text).unwrap_err().to_string()
}

fn refusal_toml(text: &str) -> String {
    registry().build_toml(&testing::pool(), text).unwrap_err().to_string()
}

/// What comes back for one packet.
fn answer(stack: &mut Stack, pool: &Pool, port: u16, bytes: &[u8]) -> Vec<Vec<u8>> {
    stack.open();
    stack.input_one(PortId(port), pool.chain_from(bytes).unwrap());
    let mut answers = Vec::new();
    while let Some(chain) = stack.poll_output(PortId(port)).pop() {
        answers.push(chain.to_vec().unwrap());
    }
    answers
}

#[test]
fn show() {
    println!("@@an_unknown_layer_has_the_nearest_name\n{}\n@@end", refusal("bytes|framing(prefix=u8, max=9)|ehco"));
    println!("@@an_unknown_layer_near_nothing_has_the_list\n{}\n@@end", refusal("bytes|quaternion"));
    println!("@@an_alias_is_a_name_too\n{}\n@@end", refusal("packets|ether:1|echo"));
    println!("@@no_text\n{}\n@@end", refusal(""));
    println!("@@a_bar_at_the_end\n{}\n@@end", refusal("packets|wire:1|"));
    println!("@@a_missing_bar\n{}\n@@end", refusal("packets|echo echo"));
    println!("@@a_port_without_a_layer\n{}\n@@end", refusal("packets"));
    println!("@@a_character_that_is_none_of_ours\n{}\n@@end", refusal("packets|&"));
    println!("@@a_bad_value\n{}\n@@end", refusal("framing(prefix=u16be, max=4k)|echo"));
    println!("@@a_value_out_of_range\n{}\n@@end", refusal("framing(prefix=u8, max=256)|echo"));
    println!("@@a_value_that_is_none_of_the_names\n{}\n@@end", refusal("framing(prefix=u24, max=1)|echo"));
    println!("@@a_time_without_a_unit\n{}\n@@end", refusal("framing(prefix=u8, max=1, complete_within=20)|echo"));
    println!("@@a_missing_option\n{}\n@@end", refusal("framing(max=1)|echo"));
    println!("@@a_missing_option_under_a_wrong_name\n{}\n@@end", refusal("framing(prefx=u8, max=1)|echo"));
    println!("@@an_unknown_option\n{}\n@@end", refusal("framing(prefix=u8, max=1, colour=red)|echo"));
    println!("@@an_option_of_a_layer_that_has_none\n{}\n@@end", refusal("bytes|echo(loud=yes)"));
    println!("@@an_option_given_twice\n{}\n@@end", refusal("framing(prefix=u8, max=1, max=2)|echo"));
    println!("@@an_option_without_a_value\n{}\n@@end", refusal("framing(prefix=u8, max)|echo"));
    println!("@@options_without_an_end\n{}\n@@end", refusal("framing(prefix=u8, max=1|echo"));
    println!("@@options_cut_off\n{}\n@@end", refusal("framing(prefix=u8"));
    println!("@@quotes_without_an_end\n{}\n@@end", refusal("framing(prefix=\"u8, max=1)|echo"));
    println!("@@something_behind_a_value\n{}\n@@end", refusal("framing(prefix=\"u8\" u9, max=1)|echo"));
    println!("@@a_key_that_is_no_number\n{}\n@@end", refusal("packets|wire:seven|echo"));
    println!("@@a_key_that_is_too_large\n{}\n@@end", refusal("packets|wire:0x10000|echo"));
    println!("@@a_missing_key\n{}\n@@end", refusal("packets|wire|discard"));
    println!("@@a_key_with_nothing_above\n{}\n@@end", refusal("packets|wire:7|echo:7"));
    println!("@@an_edge_that_nobody_said\n{}\n@@end", refusal("echo"));
    println!("@@an_edge_that_does_not_fit\n{}\n@@end", refusal("packets|framing(prefix=u8, max=1)|echo"));
    println!("@@edges_that_do_not_fit_between_layers\n{}\n@@end", refusal("framing(prefix=u8, max=1)|framing(prefix=u8, max=1)|echo"));
    println!("@@a_headroom_that_does_not_fit\n{}\n@@end", refusal("packets|wire(prepends=40)|wide:5|echo"));
    println!("@@a_refusal_of_the_layer_as_a_whole\n{}\n@@end", refusal("packets|never"));
    println!("@@the_second_line_of_a_pile\n{}\n@@end", refusal("bytes\n\t| framing(prefix=u8,\n\t\tmax=300)\n\t| echo"));
    println!("@@wide_characters_before_the_place\n{}\n@@end", refusal("bytes|écho|grün"));
    println!("@@text_that_is_not_toml\n{}\n@@end", refusal_toml("[[layer]\nkind = 'echo'\n"));
    println!("@@a_layer_without_a_kind\n{}\n@@end", refusal_toml("[[layer]]\nname = 'service'\n"));
    println!("@@an_unknown_kind\n{}\n@@end", refusal_toml("[[layer]]\nkind = 'ehco'\n"));
    println!("@@a_kind_that_is_no_string\n{}\n@@end", refusal_toml("[[layer]]\nkind = 7\n"));
    println!("@@two_layers_of_one_name\n{}\n@@end", refusal_toml("[[layer]]\nkind = 'echo'\n[[layer]]\nkind = 'echo'\n"));
    println!("@@an_unknown_table\n{}\n@@end", refusal_toml("[[layers]]\nkind = 'echo'\n"));
    println!("@@a_table_that_is_one_alone\n{}\n@@end", refusal_toml("[layer]\nkind = 'echo'\n"));
    println!("@@an_unknown_option_in_toml\n{}\n@@end", refusal_toml("[[layer]]\nkind = 'framing'\nprefix = 'u8'\nmaximum = 9\n"));
    println!("@@a_bad_value_in_toml\n{}\n@@end", refusal_toml("[[layer]]\nkind = 'framing'\nprefix = 'u8'\nmax = -1\n"));
    println!("@@a_value_that_is_a_table\n{}\n@@end", refusal_toml("[[layer]]\nkind = 'framing'\nprefix = { u = 8 }\n"));
    println!("@@a_binding_of_an_unknown_layer\n{}\n@@end", refusal_toml("[[layer]]\nkind = 'echo'\n[[bind]]\nlower = 'ecko'\nupper = 'echo'\n"));
    println!("@@a_binding_without_an_upper_end\n{}\n@@end", refusal_toml("[[layer]]\nkind = 'wire'\n[[bind]]\nlower = 'wire'\nkey = 7\n"));
    println!("@@an_unknown_field_of_a_binding\n{}\n@@end", refusal_toml("[[layer]]\nkind = 'echo'\n[[bind]]\nlower = 'echo'\nuper = 'echo'\n"));
    println!("@@a_missing_key_in_toml\n{}\n@@end", refusal_toml("[[layer]]\nkind = 'wire'\n[[layer]]\nkind = 'discard'\n[[bind]]\nlower = 'wire'\nupper = 'discard'\n"));
    println!("@@a_bad_key_in_toml\n{}\n@@end", refusal_toml("[[layer]]\nkind = 'wire'\n[[layer]]\nkind = 'discard'\n[[bind]]\nlower = 'wire'\nupper = 'discard'\nkey = 0x1_0000\n"));
    println!("@@a_port_below_an_unknown_layer\n{}\n@@end", refusal_toml("[[layer]]\nkind = 'echo'\n[[port]]\nlayer = 'discard'\n"));
    println!("@@a_port_of_an_unknown_edge\n{}\n@@end", refusal_toml("[[layer]]\nkind = 'echo'\n[[port]]\nlayer = 'echo'\nedge = 'packet'\n"));
    println!("@@a_port_whose_edge_nobody_said\n{}\n@@end", refusal_toml("[[layer]]\nkind = 'echo'\n[[port]]\nlayer = 'echo'\n"));
    println!("@@a_count_that_is_none\n{}\n@@end", refusal_toml("[stack]\nrounds = -1\n"));
    println!("@@a_layer_that_no_port_reaches\n{}\n@@end", refusal_toml("[[layer]]\nkind = \"framing\"\nprefix = \"u16be\"\nmax = 4096\n\n[[layer]]\nname = \"service\"\nkind = \"echo\"\n[[port]]\nlayer = 'framing'\n"));
    println!("@@two_layers_at_one_key\n{}\n@@end", refusal_toml("[[layer]]\nkind = 'wire'\n[[layer]]\nkind = 'echo'\n[[layer]]\nkind = 'discard'\n[[bind]]\nlower = 'wire'\nkey = 7\nupper = 'echo'\n[[bind]]\nlower = 'wire'\nkey = 7\nupper = 'discard'\n[[port]]\nlayer = 'wire'\n"));
}
