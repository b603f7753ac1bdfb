//! The guide in `docs/`, whose programs are compiled and run as documentation tests. Only those
//! tests see this.

macro_rules! pages {
    ($($name:ident $path:literal)*) => {
        $(
            #[doc = include_str!($path)]
            pub mod $name {}
        )*
    };
}

pages! {
    readme "../README.md"
    tour "../docs/tour.md"
    your_first_protocol "../docs/your-first-protocol.md"
    compose_from_text "../docs/compose-from-text.md"
    run_it_on_a_socket "../docs/run-it-on-a-socket.md"
    run_it_on_a_tap "../docs/run-it-on-a-tap.md"
    internet "../docs/internet.md"
    move_files "../docs/move-files.md"
    decode_a_capture "../docs/decode-a-capture.md"
    embed_a_stack "../docs/embed-a-stack.md"
    size_a_pool "../docs/size-a-pool.md"
    read_the_statistics "../docs/read-the-statistics.md"
    find_a_leak "../docs/find-a-leak.md"
    what_can_go_wrong "../docs/what-can-go-wrong.md"
    design "../docs/design.md"
    how_we_measure "../docs/how-we-measure.md"
}
