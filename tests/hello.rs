//! The tutorial's protocol under the test kit, and the whole example.

#[path = "../examples/hello.rs"]
#[allow(dead_code)]
mod example;

use example::Hello;
use mbuf::{stack::Protocol, testing::Conformance};

// ANCHOR: conformance
#[test]
fn conforms() {
    Conformance::new("hello", || Box::new(Hello::default()) as Box<dyn Protocol>)
        .top()
        .wire(vec![b"\x01\x00\x00\x00\x01tom".to_vec(), b"\x01\x00\x00\x00\x02".to_vec()])
        .run();
}
// ANCHOR_END: conformance

#[test]
fn the_example_runs_over_tcp_udp_and_a_bad_line() {
    example::main().unwrap();
}
