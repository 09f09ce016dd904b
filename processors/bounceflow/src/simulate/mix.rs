//! Numbers: a generator of random ones, a mixer that makes ids of counters, tables to draw weighted entries from.

use rand::Rng;
use rand_pcg::Pcg64Mcg;

/// A bijection of 64-bit numbers whose results look random (the finalizer of SplitMix64): distinct counters give distinct ids.
pub(super) const fn mix(n: u64) -> u64 {
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

/// The `n`th id of a stream.
pub(super) const fn id(stream: u64, n: u64) -> u64 {
    mix(stream.wrapping_add(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
}

/// The same seed gives the same numbers on every machine and in every version.
pub(super) struct Dice(Pcg64Mcg);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(Pcg64Mcg::new((u128::from(mix(seed)) << 64) | u128::from(mix(!seed))))
    }

    pub(super) fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Below `n`.
    pub(super) fn below(&mut self, n: usize) -> usize {
        pick(self.bits() >> 32, 32, n)
    }

    /// True once in `n`.
    pub(super) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// True with the probability of the threshold.
    pub(super) fn hits(&mut self, threshold: Threshold) -> bool {
        self.bits() >> 32 < threshold.0
    }

    /// The 32 bits [`Threshold`]s are compared with.
    pub(super) fn throw(&mut self) -> u64 {
        self.bits() >> 32
    }
}

/// A number below `n` out of `bits` random bits.
pub(super) fn pick(random: u64, bits: u32, n: usize) -> usize {
    ((random * n as u64) >> bits) as usize
}

/// A probability in 2⁻³².
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Threshold(pub(super) u64);

impl Threshold {
    pub(super) fn new(probability: f64) -> Self {
        Self((probability.clamp(0.0, 1.0) * 4_294_967_296.0).round() as u64)
    }
}

/// Fills `slots` places with indices of `weights`, each as often as its weight says, at least once where it is not 0.
pub(super) fn slots(weights: &[u32], slots: usize) -> Vec<u16> {
    let total: u64 = weights.iter().map(|w| u64::from(*w)).sum();
    let mut out = Vec::with_capacity(slots);
    let mut upto = 0;
    for (i, weight) in weights.iter().enumerate() {
        upto += u64::from(*weight);
        let end = (upto * slots as u64).checked_div(total).unwrap_or(0) as usize;
        let least = out.len() + usize::from(*weight > 0);
        out.resize(end.max(least).min(slots), i as u16);
    }
    out
}

/// 64-bit FNV-1a.
pub(super) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, b| (hash ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01b3))
}
