#![no_main]

#[path = "../checks/webhook_url.rs"]
mod webhook_url;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    webhook_url::check(bytes);
});
