//! The whole text of each refusal of a graph.

use super::refusal_toml;

#[test]
fn text_that_is_not_toml() {
    assert_eq!(
        refusal_toml("[[layer]\nkind = 'echo'\n"),
        "\
1:9: not TOML: unclosed array table, expected `]`
  |
1 | [[layer]
  |         ^"
    );
}

#[test]
fn a_layer_without_a_kind() {
    assert_eq!(
        refusal_toml("[[layer]]\nname = 'service'\n"),
        r#"1:1: `[[layer]]` needs the field `kind`
  |
1 | [[layer]]
  | ^^^^^^^^^
  = expected `kind = "..."`"#
    );
}

#[test]
fn an_unknown_kind() {
    assert_eq!(
        refusal_toml("[[layer]]\nkind = 'ehco'\n"),
        "\
2:9: unknown layer `ehco`; did you mean `echo`?
  |
2 | kind = 'ehco'
  |         ^^^^"
    );
}

#[test]
fn a_kind_that_is_no_string() {
    assert_eq!(
        refusal_toml("[[layer]]\nkind = 7\n"),
        r#"2:8: `kind` is no string
  |
2 | kind = 7
  |        ^
  = expected `kind = "..."`"#
    );
}

#[test]
fn two_layers_of_one_name() {
    assert_eq!(
        refusal_toml("[[layer]]\nkind = 'echo'\n[[layer]]\nkind = 'echo'\n"),
        "\
4:9: two layers are named `echo`
  |
4 | kind = 'echo'
  |         ^^^^
  = expected another `name` for one of them"
    );
}

#[test]
fn an_unknown_table() {
    assert_eq!(
        refusal_toml("[[layers]]\nkind = 'echo'\n"),
        "\
1:3: the text has no field `layers`; did you mean `layer`?
  |
1 | [[layers]]
  |   ^^^^^^"
    );
}

#[test]
fn a_table_that_is_one_alone() {
    assert_eq!(
        refusal_toml("[layer]\nkind = 'echo'\n"),
        "\
1:1: `layer` is no array of tables
  |
1 | [layer]
  | ^^^^^^^
  = expected `[[layer]]`"
    );
}

#[test]
fn an_unknown_option_in_toml() {
    assert_eq!(
        refusal_toml("[[layer]]\nkind = 'framing'\nprefix = 'u8'\nmaximum = 9\n"),
        "\
4:1: layer `framing` has no option `maximum`; did you mean `max`?
  |
4 | maximum = 9
  | ^^^^^^^"
    );
}

#[test]
fn a_bad_value_in_toml() {
    assert_eq!(
        refusal_toml("[[layer]]\nkind = 'framing'\nprefix = 'u8'\nmax = -1\n"),
        "\
4:7: bad value `-1` for option `max` of layer `framing`: invalid digit found in string
  |
4 | max = -1
  |       ^^
  = expected a whole number"
    );
}

#[test]
fn a_value_that_is_a_table() {
    assert_eq!(
        refusal_toml("[[layer]]\nkind = 'framing'\nprefix = { u = 8 }\n"),
        "\
3:10: option `prefix` of layer `framing` is no value
  |
3 | prefix = { u = 8 }
  |          ^^^^^^^^^
  = expected a string, a number, true or false, or an array of these"
    );
}

#[test]
fn a_binding_of_an_unknown_layer() {
    assert_eq!(
        refusal_toml("[[layer]]\nkind = 'echo'\n[[bind]]\nlower = 'ecko'\nupper = 'echo'\n"),
        "\
4:10: no layer is named `ecko`; did you mean `echo`?
  |
4 | lower = 'ecko'
  |          ^^^^"
    );
}

#[test]
fn a_binding_without_an_upper_end() {
    assert_eq!(
        refusal_toml("[[layer]]\nkind = 'wire'\n[[bind]]\nlower = 'wire'\nkey = 7\n"),
        r#"3:1: `[[bind]]` needs the field `upper`
  |
3 | [[bind]]
  | ^^^^^^^^
  = expected `upper = "..."`"#
    );
}

#[test]
fn an_unknown_field_of_a_binding() {
    assert_eq!(
        refusal_toml("[[layer]]\nkind = 'echo'\n[[bind]]\nlower = 'echo'\nuper = 'echo'\n"),
        "\
5:1: `[[bind]]` has no field `uper`; did you mean `upper`?
  |
5 | uper = 'echo'
  | ^^^^"
    );
}

#[test]
fn a_missing_key_in_toml() {
    assert_eq!(
        refusal_toml(
            "[[layer]]\nkind = 'wire'\n[[layer]]\nkind = 'discard'\n[[bind]]\nlower = 'wire'\nupper = 'discard'\n"
        ),
        "\
7:10: layer `wire` needs a key for `discard` above it
  |
7 | upper = 'discard'
  |          ^^^^^^^
  = expected a colour from 0 to 65535 (0xffff)"
    );
}

#[test]
fn a_bad_key_in_toml() {
    assert_eq!(
        refusal_toml(
            "[[layer]]\nkind = 'wire'\n[[layer]]\nkind = 'discard'\n[[bind]]\nlower = 'wire'\nupper = 'discard'\nkey = 0x1_0000\n"
        ),
        "\
8:7: key 65536 is too large for layer `wire`
  |
8 | key = 0x1_0000
  |       ^^^^^^^^
  = expected a colour from 0 to 65535 (0xffff)"
    );
}

#[test]
fn a_port_below_an_unknown_layer() {
    assert_eq!(
        refusal_toml("[[layer]]\nkind = 'echo'\n[[port]]\nlayer = 'discard'\n"),
        "\
4:10: no layer is named `discard`
  |
4 | layer = 'discard'
  |          ^^^^^^^
  = expected echo"
    );
}

#[test]
fn a_port_of_an_unknown_edge() {
    assert_eq!(
        refusal_toml("[[layer]]\nkind = 'echo'\n[[port]]\nlayer = 'echo'\nedge = 'packet'\n"),
        "\
5:9: unknown edge `packet`; did you mean `packets`?
  |
5 | edge = 'packet'
  |         ^^^^^^
  = expected bytes or packets"
    );
}

#[test]
fn a_port_whose_edge_nobody_said() {
    assert_eq!(
        refusal_toml("[[layer]]\nkind = 'echo'\n[[port]]\nlayer = 'echo'\n"),
        r#"4:10: layer `echo` takes bytes or packets: say which
  |
4 | layer = 'echo'
  |          ^^^^
  = expected `edge = "bytes"` or `edge = "packets"`"#
    );
}

#[test]
fn a_count_that_is_none() {
    assert_eq!(
        refusal_toml("[stack]\nrounds = -1\n"),
        "\
2:10: `rounds` is no count
  |
2 | rounds = -1
  |          ^^
  = expected a whole number, 0 or greater"
    );
}

#[test]
fn a_layer_that_no_port_reaches() {
    assert_eq!(
        refusal_toml(
            "[[layer]]\nkind = \"framing\"\nprefix = \"u16be\"\nmax = 4096\n\n[[layer]]\nname = \"service\"\nkind = \"echo\"\n[[port]]\nlayer = 'framing'\n"
        ),
        r#"8:9: stack: layer `echo` has no way down to a port: bind it above a layer, or put a port below it
  |
8 | kind = "echo"
  |         ^^^^"#
    );
}

#[test]
fn two_layers_at_one_key() {
    assert_eq!(
        refusal_toml(
            "[[layer]]\nkind = 'wire'\n[[layer]]\nkind = 'echo'\n[[layer]]\nkind = 'discard'\n[[bind]]\nlower = 'wire'\nkey = 7\nupper = 'echo'\n[[bind]]\nlower = 'wire'\nkey = 7\nupper = 'discard'\n[[port]]\nlayer = 'wire'\n"
        ),
        "\
2:9: stack: layer `wire` hands key 0x7 to both `echo` and `discard`
  |
2 | kind = 'wire'
  |         ^^^^"
    );
}
