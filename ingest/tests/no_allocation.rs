//! A batch that has seen a request of the same size decodes without allocating.
#![allow(clippy::unwrap_used)] // Helpers of tests are not exempt as tests are.
#![allow(unsafe_code)] // A counting allocator can't be written without.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use quorate_ingest::{Batch, CacheHasher, DecodeLimits, decode_snappy_write_request};

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: everything is passed on to the system allocator as it came; counting allocates nothing,
// since the cell is initialised in const and has no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// 100 series of 3 labels; in every tenth a sample stands between the labels.
fn body() -> Vec<u8> {
    let mut raw = Vec::new();
    for index in 0..100u8 {
        let mut series = b"\x0a\x0d\x0a\x08__name__\x12\x01m".to_vec();
        let id = format!("\x0a\x08\x0a\x02id\x12\x02{index:02}");
        let sample = [
            &[0x12, 0x0b, 0x09][..],
            &f64::from(index).to_le_bytes(),
            &[0x10, index],
        ]
        .concat();
        if index % 10 == 0 {
            series.extend(&sample);
        }
        series.extend(id.as_bytes());
        series.extend(b"\x0a\x08\x0a\x03job\x12\x01j");
        series.extend(&sample);
        raw.extend([0x0a, series.len() as u8]);
        raw.extend(series);
    }
    snap::raw::Encoder::new().compress_vec(&raw).unwrap()
}

#[test]
fn steady_state_allocates_nothing() {
    let limits = DecodeLimits::DEFAULT;
    let body = body();
    let hasher = CacheHasher::new(1);
    let mut batch = Batch::new();
    let mut canonical = Vec::new();
    let mut decode = || {
        let before = ALLOCATIONS.get();
        decode_snappy_write_request(&body, &limits, &mut batch).unwrap();
        assert_eq!((batch.len(), batch.samples()), (100, 110));
        let mut keys = 0;
        for series in batch.iter() {
            keys ^= hasher.hash(series.raw_labels());
            assert_eq!(
                series
                    .canonicalize(&limits, &mut canonical)
                    .unwrap()
                    .shard_labels()
                    .job,
                Some("j")
            );
        }
        assert_ne!(keys, 0);
        ALLOCATIONS.get() - before
    };
    assert!(decode() > 0, "the counter doesn't count");
    for _ in 0..3 {
        assert_eq!(decode(), 0);
    }
}
