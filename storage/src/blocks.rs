//! Memory for open chunks: blocks of a few sizes out of pages, instead of a heap allocation for each
//! series. A full block moves to the next size; freed blocks are used again.

/// Sizes of blocks in bytes; the largest holds the longest chunk there can be.
const SIZES: [u32; 16] = [
    32, 48, 64, 80, 96, 128, 160, 192, 256, 320, 448, 640, 1024, 1792, 3072, 5120,
];
const CLASS_SHIFT: u32 = 28;
const INDEX_MASK: u32 = (1 << CLASS_SHIFT) - 1;
const PAGE_BLOCKS: u32 = 256;
const NONE: u32 = u32::MAX;

/// The number of a block, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockRef(u32);

impl BlockRef {
    pub(crate) const NONE: Self = Self(NONE);

    fn class(self) -> usize {
        (self.0 >> CLASS_SHIFT) as usize
    }

    fn index(self) -> u32 {
        self.0 & INDEX_MASK
    }

    /// How many bytes the block has.
    #[inline]
    pub(crate) fn size(self) -> usize {
        if self.0 == NONE {
            return 0;
        }
        SIZES[self.class()] as usize
    }
}

/// Blocks of one size.
#[derive(Debug, Default)]
struct Class {
    pages: Vec<Box<[u8]>>,
    /// Blocks handed out so far, freed ones included.
    used: u32,
    free: Vec<u32>,
}

/// All blocks of one shard.
#[derive(Debug, Default)]
pub(crate) struct Blocks {
    classes: [Class; SIZES.len()],
}

impl Blocks {
    /// A zeroed block with at least `bytes` bytes; `None` beyond the largest size, or when all numbers
    /// are taken.
    pub(crate) fn allocate(&mut self, bytes: usize) -> Option<BlockRef> {
        let number = SIZES.iter().position(|size| *size as usize >= bytes)?;
        let size = SIZES[number];
        let class = &mut self.classes[number];
        let reused = class.free.pop();
        let index = match reused {
            Some(index) => index,
            None => {
                // The last number of the last class would be `NONE`.
                let index = Some(class.used).filter(|used| *used < INDEX_MASK)?;
                if index.is_multiple_of(PAGE_BLOCKS) {
                    class
                        .pages
                        .push(vec![0; (PAGE_BLOCKS * size) as usize].into_boxed_slice());
                }
                class.used += 1;
                index
            }
        };
        let block = BlockRef((number as u32) << CLASS_SHIFT | index);
        if reused.is_some() {
            self.get_mut(block).fill(0);
        }
        Some(block)
    }

    /// Gives a block back.
    pub(crate) fn free(&mut self, block: BlockRef) {
        if block != BlockRef::NONE {
            self.classes[block.class()].free.push(block.index());
        }
    }

    /// Moves a block's bytes to one with at least `bytes` bytes and gives the old one back. `bytes` is
    /// more than the block has.
    pub(crate) fn grow(&mut self, block: BlockRef, bytes: usize) -> Option<BlockRef> {
        let larger = self.allocate(bytes)?;
        if block != BlockRef::NONE {
            // Of different sizes, so of different classes.
            let classes = [block.class(), larger.class()];
            if let Ok([from, to]) = self.classes.get_disjoint_mut(classes) {
                let ((page, at), (new_page, new_at)) = (place(block), place(larger));
                let size = block.size();
                to.pages[new_page][new_at..new_at + size].copy_from_slice(&from.pages[page][at..at + size]);
            }
            self.free(block);
        }
        Some(larger)
    }

    #[inline]
    pub(crate) fn get(&self, block: BlockRef) -> &[u8] {
        if block == BlockRef::NONE {
            return &[];
        }
        let (page, at) = place(block);
        &self.classes[block.class()].pages[page][at..at + block.size()]
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, block: BlockRef) -> &mut [u8] {
        if block == BlockRef::NONE {
            return &mut [];
        }
        let (page, at) = place(block);
        &mut self.classes[block.class()].pages[page][at..at + block.size()]
    }

    /// Has the processor fetch what is at a byte of a block, if the block has it.
    #[inline]
    pub(crate) fn prefetch(&self, block: BlockRef, at: usize) {
        if let Some(byte) = self.get(block).get(at) {
            prefetch(byte);
        }
    }

    /// Forgets all blocks and returns their memory.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Bytes of blocks in use.
    pub(crate) fn bytes(&self) -> u64 {
        self.classes
            .iter()
            .zip(SIZES)
            .map(|(class, size)| (u64::from(class.used) - class.free.len() as u64) * u64::from(size))
            .sum()
    }
}

/// Asks for a cache line without waiting for it. Without this, waiting for them is five sixths of what appending to
/// 100,000 open chunks costs.
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
#[inline]
fn prefetch(byte: &u8) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: a prefetch is a hint: it changes nothing and can't fault, whatever the address. All x86-64 has it.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(byte).cast()) }
}

#[cfg(not(target_arch = "x86_64"))]
fn prefetch(_: &u8) {}

/// Page and first byte of a block within its class.
#[inline]
fn place(block: BlockRef) -> (usize, usize) {
    let index = block.index();
    (
        (index / PAGE_BLOCKS) as usize,
        (index % PAGE_BLOCKS) as usize * block.size(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn blocks_keep_their_bytes(ops in proptest::collection::vec((any::<u8>(), 1usize..5200), 1..200)) {
            let mut blocks = Blocks::default();
            let mut held: Vec<(BlockRef, u8)> = Vec::new();
            for (op, bytes) in ops {
                match (op % 4, held.pop()) {
                    (0, Some((block, fill))) => {
                        prop_assert!(blocks.get(block).iter().all(|byte| *byte == fill));
                        blocks.free(block);
                    }
                    (1, Some((block, fill))) => {
                        let size = block.size();
                        match blocks.grow(block, size + 1) {
                            Some(larger) => {
                                prop_assert!(larger.size() > size);
                                prop_assert!(blocks.get(larger)[..size].iter().all(|byte| *byte == fill));
                                prop_assert!(blocks.get(larger)[size..].iter().all(|byte| *byte == 0));
                                blocks.get_mut(larger).fill(fill);
                                held.insert(0, (larger, fill));
                            }
                            None => held.insert(0, (block, fill)),
                        }
                    }
                    (_, last) => {
                        held.extend(last);
                        match blocks.allocate(bytes) {
                            Some(block) => {
                                prop_assert!(blocks.get(block).iter().all(|byte| *byte == 0));
                                blocks.get_mut(block).fill(op);
                                held.push((block, op));
                            }
                            None => prop_assert!(bytes > 5120),
                        }
                    }
                }
                for (block, fill) in &held {
                    prop_assert!(blocks.get(*block).iter().all(|byte| byte == fill));
                }
                let total: usize = held.iter().map(|(block, _)| block.size()).sum();
                prop_assert_eq!(blocks.bytes(), total as u64);
            }
        }
    }
}
