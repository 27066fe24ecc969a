#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| dzvin_fuzz::patches(data));
