//! What one key counted, by event time: short sorted lists of cells, so that a quiet key costs little.
//! Owns order, merging and sums; which ticks matter is the grid's business, what a kind means the windows'.

use std::ops::Range;

use crate::grid::Grid;

/// Counters of a key and bucket, in the order of [`Counts`](crate::Counts).
pub(crate) const COUNTERS: usize = 8;

/// Everything about one key.
#[derive(Debug)]
pub(crate) struct Series {
    /// Numbers of ISP and identity; the empty string where the scope has none.
    pub(crate) isp: u32,
    pub(crate) identity: u32,
    pub(crate) counts: Cells<COUNTERS>,
    /// By category: bounces, deferrals, late bounces.
    pub(crate) categories: Cells<3>,
    /// By place of the pattern's details: how often.
    pub(crate) patterns: Cells<1>,
}

impl Series {
    pub(crate) fn new(isp: u32, identity: u32) -> Self {
        Self { isp, identity, counts: Cells::default(), categories: Cells::default(), patterns: Cells::default() }
    }

    /// Widens buckets as far as their age allows and drops those no window needs.
    pub(crate) fn tidy(&mut self, grid: &Grid) {
        self.counts.tidy(grid);
        self.categories.tidy(grid);
        self.patterns.tidy(grid);
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        self.counts.heap_bytes() + self.categories.heap_bytes() + self.patterns.heap_bytes()
    }
}

/// Cells in ascending order of (start, kind), no two with the same.
#[derive(Debug)]
pub(crate) struct Cells<const N: usize>(Vec<Cell<N>>);

/// What one bucket counted of one kind. 32 bits are enough for a bucket; more is kept at the largest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cell<const N: usize> {
    /// First tick of the bucket.
    start: u32,
    /// A category or pattern; 0 where there are no kinds.
    pub(crate) kind: u32,
    pub(crate) counts: [u32; N],
}

impl<const N: usize> Default for Cells<N> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<const N: usize> Cells<N> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The start of the newest bucket.
    pub(crate) fn newest(&self) -> Option<u32> {
        self.0.last().map(|cell| cell.start)
    }

    pub(crate) fn add(&mut self, start: u32, kind: u32, counts: [u32; N]) {
        let cell = Cell { start, kind, counts };
        let place = match self.0.last_mut() {
            Some(last) if last.key() == cell.key() => return last.absorb(&cell),
            Some(last) if last.key() > cell.key() => self.0.partition_point(|c| c.key() < cell.key()),
            _ => self.0.len(),
        };
        match self.0.get_mut(place) {
            Some(same) if same.key() == cell.key() => same.absorb(&cell),
            _ => {
                // By a half and not by doubling: most keys hold only a few cells.
                if self.0.len() == self.0.capacity() {
                    self.0.reserve_exact(self.0.len() / 2 + 1);
                }
                self.0.insert(place, cell);
            }
        }
    }

    /// The cells that begin within a range of ticks.
    pub(crate) fn within(&self, span: &Range<u32>) -> &[Cell<N>] {
        if self.newest().is_none_or(|newest| newest < span.start) {
            return &[];
        }
        let from = self.0.partition_point(|cell| cell.start < span.start);
        let cells = &self.0[from..];
        // The newest buckets are mostly not in a window yet, and few.
        let beyond = cells.iter().rev().take_while(|cell| cell.start >= span.end).count();
        &cells[..cells.len() - beyond]
    }

    pub(crate) fn sum(&self, span: &Range<u32>) -> [u64; N] {
        // Newest first, as `within` but in one pass: this is where an evaluation spends its time.
        let entered = self.0.iter().rev().skip_while(|cell| cell.start >= span.end);
        sum(entered.take_while(|cell| cell.start >= span.start).map(|cell| &cell.counts))
    }

    fn tidy(&mut self, grid: &Grid) {
        let gone = self.0.partition_point(|cell| cell.start < grid.oldest());
        self.0.drain(..gone);
        let mut moved = false;
        for cell in &mut self.0 {
            let start = grid.bucket(cell.start).unwrap_or(cell.start);
            moved |= start != cell.start;
            cell.start = start;
        }
        if moved {
            self.0.sort_unstable_by_key(Cell::key);
            self.0.dedup_by(|cell, kept| {
                let same = cell.key() == kept.key();
                if same {
                    kept.absorb(cell);
                }
                same
            });
        }
        if self.0.len() < self.0.capacity() / 2 {
            self.0.shrink_to_fit();
        }
    }

    fn heap_bytes(&self) -> usize {
        self.0.capacity() * size_of::<Cell<N>>()
    }
}

impl<const N: usize> Cell<N> {
    fn key(&self) -> (u32, u32) {
        (self.start, self.kind)
    }

    pub(crate) fn start(&self) -> u32 {
        self.start
    }

    fn absorb(&mut self, other: &Self) {
        for (count, more) in std::iter::zip(&mut self.counts, other.counts) {
            *count = count.saturating_add(more);
        }
    }
}

pub(crate) fn sum<'a, const N: usize>(counts: impl Iterator<Item = &'a [u32; N]>) -> [u64; N] {
    let mut total = [0; N];
    for counts in counts {
        for (sum, count) in std::iter::zip(&mut total, counts) {
            *sum += u64::from(*count);
        }
    }
    total
}
