//! The whole text of each refusal of a pile.

use super::refusal;

#[test]
fn an_unknown_layer_has_the_nearest_name() {
    assert_eq!(
        refusal("bytes|framing(prefix=u8, max=9)|ehco"),
        "\
1:33: unknown layer `ehco`; did you mean `echo`?
  |
1 | bytes|framing(prefix=u8, max=9)|ehco
  |                                 ^^^^"
    );
}

#[test]
fn no_text() {
    assert_eq!(
        refusal(""),
        "\
1:1: the name of a layer is missing
  |
1 | 
  | ^"
    );
}

#[test]
fn a_bar_at_the_end() {
    assert_eq!(
        refusal("packets|wire:1|"),
        "\
1:16: the name of a layer is missing
  |
1 | packets|wire:1|
  |                ^"
    );
}

#[test]
fn a_missing_bar() {
    assert_eq!(
        refusal("packets|echo echo"),
        "\
1:14: unexpected `e`
  |
1 | packets|echo echo
  |              ^
  = expected `|` and the next layer, or the end"
    );
}

#[test]
fn a_port_without_a_layer() {
    assert_eq!(
        refusal("packets"),
        "\
1:8: the text ends too early
  |
1 | packets
  |        ^
  = expected `|` and the lowest layer"
    );
}

#[test]
fn a_character_that_is_none_of_ours() {
    assert_eq!(
        refusal("packets|&"),
        "\
1:9: unexpected `&`
  |
1 | packets|&
  |         ^
  = expected the name of a layer"
    );
}

#[test]
fn a_bad_value() {
    assert_eq!(
        refusal("framing(prefix=u16be, max=4k)|echo"),
        "\
1:27: bad value `4k` for option `max` of layer `framing`: invalid digit found in string
  |
1 | framing(prefix=u16be, max=4k)|echo
  |                           ^^
  = expected a whole number"
    );
}

#[test]
fn a_value_out_of_range() {
    assert_eq!(
        refusal("framing(prefix=u8, max=256)|echo"),
        "\
1:24: layer `framing`: this prefix can say 1 to 255, not 256
  |
1 | framing(prefix=u8, max=256)|echo
  |                        ^^^"
    );
}

#[test]
fn a_value_that_is_none_of_the_names() {
    assert_eq!(
        refusal("framing(prefix=u24, max=1)|echo"),
        "\
1:16: bad value `u24` for option `prefix` of layer `framing`: there is no such prefix
  |
1 | framing(prefix=u24, max=1)|echo
  |                ^^^
  = expected u8, u16be, u16le, u32be, u32le or varint"
    );
}

#[test]
fn a_time_without_a_unit() {
    assert_eq!(
        refusal("framing(prefix=u8, max=1, complete_within=20)|echo"),
        "\
1:43: bad value `20` for option `complete_within` of layer `framing`: no unit
  |
1 | framing(prefix=u8, max=1, complete_within=20)|echo
  |                                           ^^
  = expected a time such as 250us, 20ms, 1.5s, 5m or 2h"
    );
}

#[test]
fn a_missing_option() {
    assert_eq!(
        refusal("framing(max=1)|echo"),
        "\
1:1: layer `framing` needs the option `prefix`
  |
1 | framing(max=1)|echo
  | ^^^^^^^
  = expected `prefix=` u8, u16be, u16le, u32be, u32le or varint"
    );
}

#[test]
fn a_missing_option_under_a_wrong_name() {
    assert_eq!(
        refusal("framing(prefx=u8, max=1)|echo"),
        "\
1:9: layer `framing` has no option `prefx`; did you mean `prefix`?
  |
1 | framing(prefx=u8, max=1)|echo
  |         ^^^^^"
    );
}

#[test]
fn an_unknown_option() {
    assert_eq!(
        refusal("framing(prefix=u8, max=1, colour=red)|echo"),
        "\
1:27: layer `framing` has no option `colour`
  |
1 | framing(prefix=u8, max=1, colour=red)|echo
  |                           ^^^^^^
  = expected complete_within, max or prefix"
    );
}

#[test]
fn an_option_of_a_layer_that_has_none() {
    assert_eq!(
        refusal("bytes|echo(loud=yes)"),
        "\
1:12: layer `echo` has no option `loud`
  |
1 | bytes|echo(loud=yes)
  |            ^^^^"
    );
}

#[test]
fn an_option_given_twice() {
    assert_eq!(
        refusal("framing(prefix=u8, max=1, max=2)|echo"),
        "\
1:27: option `max` of layer `framing` is given twice
  |
1 | framing(prefix=u8, max=1, max=2)|echo
  |                           ^^^"
    );
}

#[test]
fn an_option_without_a_value() {
    assert_eq!(
        refusal("framing(prefix=u8, max)|echo"),
        "\
1:20: option `max` has no value
  |
1 | framing(prefix=u8, max)|echo
  |                    ^^^
  = expected `max=value`"
    );
}

#[test]
fn options_without_an_end() {
    assert_eq!(
        refusal("framing(prefix=u8, max=1|echo"),
        "\
1:8: the options of layer `framing` have no end
  |
1 | framing(prefix=u8, max=1|echo
  |        ^
  = expected a closing `)`"
    );
}

#[test]
fn options_cut_off() {
    assert_eq!(
        refusal("framing(prefix=u8"),
        "\
1:8: the options of layer `framing` have no end
  |
1 | framing(prefix=u8
  |        ^
  = expected a closing `)`"
    );
}

#[test]
fn quotes_without_an_end() {
    assert_eq!(
        refusal("framing(prefix=\"u8, max=1)|echo"),
        r#"1:16: the quoted value of an option of layer `framing` has no end
  |
1 | framing(prefix="u8, max=1)|echo
  |                ^
  = expected a closing `"`"#
    );
}

#[test]
fn something_behind_a_value() {
    assert_eq!(
        refusal("framing(prefix=\"u8\" u9, max=1)|echo"),
        r#"1:21: unexpected `u`
  |
1 | framing(prefix="u8" u9, max=1)|echo
  |                     ^
  = expected `,` and the next option, or `)`"#
    );
}

#[test]
fn a_key_that_is_no_number() {
    assert_eq!(
        refusal("packets|wire:seven|echo"),
        "\
1:14: bad key `seven`
  |
1 | packets|wire:seven|echo
  |              ^^^^^
  = expected a number such as 7 or 0x0800, or * for the rest"
    );
}

#[test]
fn a_key_that_is_too_large() {
    assert_eq!(
        refusal("packets|wire:0x10000|echo"),
        "\
1:14: key 65536 is too large for layer `wire`
  |
1 | packets|wire:0x10000|echo
  |              ^^^^^^^
  = expected a colour from 0 to 65535 (0xffff)"
    );
}

#[test]
fn a_missing_key() {
    assert_eq!(
        refusal("packets|wire|discard"),
        "\
1:9: layer `wire` needs a key for `discard` above it
  |
1 | packets|wire|discard
  |         ^^^^
  = expected a colour from 0 to 65535 (0xffff)"
    );
}

#[test]
fn a_key_with_nothing_above() {
    assert_eq!(
        refusal("packets|wire:7|echo:7"),
        "\
1:21: nothing is above layer `echo`, so this key binds nothing
  |
1 | packets|wire:7|echo:7
  |                     ^"
    );
}

#[test]
fn an_edge_that_nobody_said() {
    assert_eq!(
        refusal("echo"),
        "\
1:1: layer `echo` takes bytes or packets: say which the port carries
  |
1 | echo
  | ^^^^
  = expected `bytes|echo` or `packets|echo`"
    );
}

#[test]
fn an_edge_that_does_not_fit() {
    assert_eq!(
        refusal("packets|framing(prefix=u8, max=1)|echo"),
        "\
1:9: stack: layer `framing` takes bytes, but port 0 carries packets
  |
1 | packets|framing(prefix=u8, max=1)|echo
  |         ^^^^^^^"
    );
}

#[test]
fn edges_that_do_not_fit_between_layers() {
    assert_eq!(
        refusal("framing(prefix=u8, max=1)|framing(prefix=u8, max=1)|echo"),
        "\
1:27: stack: layer `framing` takes bytes, but `framing` offers packets
  |
1 | framing(prefix=u8, max=1)|framing(prefix=u8, max=1)|echo
  |                           ^^^^^^^"
    );
}

#[test]
fn a_headroom_that_does_not_fit() {
    assert_eq!(
        refusal("packets|wire(prepends=40)|wide:5|echo"),
        "\
1:9: stack: layer `wire` prepends up to 40 bytes, which makes 70 on the way down wide > wire, but pool `test` has 64 bytes of headroom
  |
1 | packets|wire(prepends=40)|wide:5|echo
  |         ^^^^"
    );
}

#[test]
fn a_refusal_of_the_layer_as_a_whole() {
    assert_eq!(
        refusal("packets|never"),
        "\
1:9: layer `never`: not today
  |
1 | packets|never
  |         ^^^^^"
    );
}

#[test]
fn the_second_line_of_a_pile() {
    assert_eq!(
        refusal("bytes\n\t| framing(prefix=u8,\n\t\tmax=300)\n\t| echo"),
        "\
3:7: layer `framing`: this prefix can say 1 to 255, not 300
  |
3 | \t\tmax=300)
  | \t\t    ^^^"
    );
}

#[test]
fn wide_characters_before_the_place() {
    assert_eq!(
        refusal("bytes|écho|grün"),
        "\
1:7: unknown layer `écho`; did you mean `echo`?
  |
1 | bytes|écho|grün
  |       ^^^^"
    );
}

#[test]
fn an_ip_that_there_is_not() {
    assert_eq!(
        refusal("eth|ipv5|udp:7|echo"),
        "\
1:5: unknown layer `ipv5`; did you mean `ipv4`?
  |
1 | eth|ipv5|udp:7|echo
  |     ^^^^"
    );
}

#[test]
fn an_address_without_its_prefix() {
    assert_eq!(
        refusal("eth|ipv4(address=192.0.2.1)|udp:7|echo"),
        "\
1:18: bad value `192.0.2.1` for option `address` of layer `ipv4`: the prefix length is missing
  |
1 | eth|ipv4(address=192.0.2.1)|udp:7|echo
  |                  ^^^^^^^^^
  = expected an IPv4 address with its prefix length, such as 192.0.2.1/24"
    );
}

#[test]
fn a_mac_address_of_a_group() {
    assert_eq!(
        refusal("eth(mac=01:00:5e:00:00:01)|ipv4|udp:7|echo"),
        "\
1:9: bad value `01:00:5e:00:00:01` for option `mac` of layer `ethernet`: it is a group's, not a station's
  |
1 | eth(mac=01:00:5e:00:00:01)|ipv4|udp:7|echo
  |         ^^^^^^^^^^^^^^^^^
  = expected a MAC address such as 02:00:00:00:00:01"
    );
}

#[test]
fn a_port_that_there_is_not() {
    assert_eq!(
        refusal("eth|ipv4|udp:70000|echo"),
        "\
1:14: key 70000 is too large for layer `udp`
  |
1 | eth|ipv4|udp:70000|echo
  |              ^^^^^
  = expected a port from 0 to 65535 (0xffff)"
    );
}

#[test]
fn a_service_without_a_usual_port() {
    assert_eq!(
        refusal("eth|ipv4|udp|framing(prefix=u8, max=1)"),
        "\
1:10: layer `udp` needs a key for `framing` above it
  |
1 | eth|ipv4|udp|framing(prefix=u8, max=1)
  |          ^^^
  = expected a port from 0 to 65535 (0xffff)"
    );
}
