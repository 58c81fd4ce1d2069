#![no_main]

#[path = "../checks/request_header.rs"]
mod request_header;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    request_header::check(bytes);
});
