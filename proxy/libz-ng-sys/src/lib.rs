//! Stands in for the crate of this name, which builds a C library with CMake.
//!
//! The engine links it to compress responses, which Portolan does not do, and has no feature to
//! leave it out. The Rust implementation of zlib has the same interface and needs no tools beyond
//! cargo; only the optional function pointers in its stream are spelled differently, which the
//! wrappers below bridge. `docs/adr/0003-libz.md` has the reasons, and when this can go.

#![no_std]
#![allow(
    non_camel_case_types,
    non_snake_case,
    reason = "the names are those of the C interface"
)]

use core::ffi::{c_char, c_int, c_uint, c_ulong, c_void};

pub use libz_rs_sys::*;

/// `alloc_func`, never null.
pub type alloc_func = unsafe extern "C" fn(*mut c_void, c_uint, c_uint) -> *mut c_void;

/// `free_func`, never null.
pub type free_func = unsafe extern "C" fn(*mut c_void, *mut c_void);

/// zlib's stream, with the layout of [`libz_rs_sys::z_stream`]: an `Option` of a function pointer
/// is laid out like the pointer.
#[repr(C)]
pub struct z_stream {
    pub next_in: *mut u8,
    pub avail_in: c_uint,
    pub total_in: c_ulong,
    pub next_out: *mut u8,
    pub avail_out: c_uint,
    pub total_out: c_ulong,
    pub msg: *mut c_char,
    pub state: *mut internal_state,
    pub zalloc: alloc_func,
    pub zfree: free_func,
    pub opaque: *mut c_void,
    pub data_type: c_int,
    pub adler: c_ulong,
    pub reserved: c_ulong,
}

const _: () = assert!(size_of::<z_stream>() == size_of::<libz_rs_sys::z_stream>());
const _: () = assert!(align_of::<z_stream>() == align_of::<libz_rs_sys::z_stream>());

/// Wrappers that hand the same stream on under its other type.
macro_rules! same_stream {
    ($( fn $name:ident(strm $(, $arg:ident: $type:ty)*); )*) => { $(
        /// As in zlib.
        ///
        /// # Safety
        /// As in zlib: `strm` is a stream that was initialised for this.
        pub unsafe extern "C" fn $name(strm: *mut z_stream $(, $arg: $type)*) -> c_int {
            // SAFETY: the caller's promise; the layouts are the same.
            unsafe { libz_rs_sys::$name(strm.cast() $(, $arg)*) }
        }
    )* };
}

same_stream! {
    fn deflate(strm, flush: c_int);
    fn deflateEnd(strm);
    fn deflateReset(strm);
    fn deflateParams(strm, level: c_int, strategy: c_int);
    fn deflateSetDictionary(strm, dictionary: *const u8, length: c_uint);
    fn inflate(strm, flush: c_int);
    fn inflateEnd(strm);
    fn inflateReset2(strm, window_bits: c_int);
    fn inflateSetDictionary(strm, dictionary: *const u8, length: c_uint);
    fn inflateInit2_(strm, window_bits: c_int, version: *const c_char, size: c_int);
    fn deflateInit2_(
        strm, level: c_int, method: c_int, window_bits: c_int, mem_level: c_int,
        strategy: c_int, version: *const c_char, size: c_int
    );
}
