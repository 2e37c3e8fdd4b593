//! Vectors of f32 on whatever the machine has.
//!
//! A kernel is written once, generic over [`Simd`], as the body of [`Kernel::run`]; [`Level::run`] compiles it for every
//! instruction set and picks one at run time. Everything between the two must be `#[inline(always)]`, so that it is compiled
//! with the instruction set's features on.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;

use std::fmt;
use std::sync::OnceLock;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::Avx512;
#[cfg(target_arch = "aarch64")]
pub(crate) use neon::Neon;
pub(crate) use portable::Portable;

/// A vector of f32 and what can be done with it.
///
/// # Safety of the methods
/// The machine has the instruction set, and pointers are valid for the lanes that a method reads or writes. They need no alignment.
pub(crate) trait Simd: Copy + 'static {
    /// Values in a vector.
    const LANES: usize;
    /// Vectors that the machine has registers for.
    const REGISTERS: usize;
    /// Rows of the matrix product's tile: as many as registers allow beside two vectors of columns.
    const TILE_ROWS: usize;
    /// The same instruction set with vectors of half the width, for what is left over; itself if it has none.
    type Half: Simd;
    /// The vector.
    type V: Copy;

    unsafe fn splat(x: f32) -> Self::V;
    unsafe fn load(from: *const f32) -> Self::V;
    unsafe fn store(to: *mut f32, v: Self::V);
    /// The first `n < LANES` values; the other lanes are zero and their memory is not touched.
    unsafe fn load_first(from: *const f32, n: usize) -> Self::V;
    unsafe fn store_first(to: *mut f32, v: Self::V, n: usize);
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// `b` where either is NaN.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// As `max`, but NaN where either is NaN.
    unsafe fn max_or_nan(a: Self::V, b: Self::V) -> Self::V;
    /// `b` where either is NaN.
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, rounded once where the machine can.
    unsafe fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    unsafe fn sqrt(v: Self::V) -> Self::V;
    /// `2^(n - 127)`, `n` being the lowest eight bits of each value, of which the ninth is zero: 0 for 0, infinite for 255.
    unsafe fn power_of_two(v: Self::V) -> Self::V;
    /// `yes` where `a < b`, otherwise `no`.
    unsafe fn select_less(a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V;
    /// Value `I` of each four lanes in all four of them.
    unsafe fn broadcast_in_fours<const I: usize>(v: Self::V) -> Self::V;
    /// Value `i < WIDTH` of each `WIDTH` values in all of their lanes, for a vector of one such group or several.
    unsafe fn load_spread<const WIDTH: usize>(from: *const f32, i: usize) -> Self::V;
    unsafe fn sum(v: Self::V) -> f32;
    unsafe fn largest(v: Self::V) -> f32;
    /// Runs a kernel as a function of its own. Of what many kernels call, the program then has one copy for the instruction set, not
    /// one in each of them: the compiler took four minutes for those.
    unsafe fn call<K: Kernel>(kernel: K) -> K::Output;

    /// Brings what is there nearer, if the machine can; the pointer may be any.
    #[inline(always)]
    fn prefetch(at: *const f32) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: every x86-64 machine has the instruction, which reads nothing that the program could see.
        unsafe {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = at;
    }

    /// A square of `LANES` times `LANES` values: value `offset + i` behind pointer `j` goes to `to + i * stride + j`.
    #[inline(always)]
    unsafe fn transpose(from: *const *const f32, offset: usize, to: *mut f32, stride: usize) {
        for i in 0..Self::LANES {
            for j in 0..Self::LANES {
                // SAFETY: as the caller's.
                unsafe { to.add(i * stride + j).write(*(*from.add(j)).add(offset + i)) }
            }
        }
    }

    #[inline(always)]
    unsafe fn zero() -> Self::V {
        // SAFETY: as the caller's.
        unsafe { Self::splat(0.0) }
    }

    #[inline(always)]
    unsafe fn abs(v: Self::V) -> Self::V {
        // SAFETY: as the caller's.
        unsafe { Self::max(v, Self::sub(Self::zero(), v)) }
    }

    /// All lanes if `n >= LANES`, else the first `n`.
    #[inline(always)]
    unsafe fn load_upto(from: *const f32, n: usize) -> Self::V {
        // SAFETY: as the caller's.
        unsafe { if n >= Self::LANES { Self::load(from) } else { Self::load_first(from, n) } }
    }

    /// All lanes if `n >= LANES`, else the first `n`, and `rest` in the others.
    #[inline(always)]
    unsafe fn load_upto_or(from: *const f32, n: usize, rest: f32) -> Self::V {
        // SAFETY: as the caller's; no vector has more than sixteen lanes.
        unsafe {
            if n >= Self::LANES {
                return Self::load(from);
            }
            let mut values = [rest; 16];
            values.as_mut_ptr().copy_from_nonoverlapping(from, n);
            Self::load(values.as_ptr())
        }
    }

    /// All lanes if `n >= LANES`, else the first `n`.
    #[inline(always)]
    unsafe fn store_upto(to: *mut f32, v: Self::V, n: usize) {
        // SAFETY: as the caller's.
        unsafe { if n >= Self::LANES { Self::store(to, v) } else { Self::store_first(to, v, n) } }
    }
}

/// Code that is compiled for every instruction set.
pub(crate) trait Kernel {
    type Output;

    /// Must be `#[inline(always)]`.
    ///
    /// # Safety
    /// The machine has the instruction set `S`.
    unsafe fn run<S: Simd>(self) -> Self::Output;
}

/// The constants of an instruction set.
struct Widths;

impl Kernel for Widths {
    type Output = [usize; 3];

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> [usize; 3] {
        [S::LANES, S::Half::LANES, S::TILE_ROWS]
    }
}

/// An instruction set that this machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level(Set);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Set {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "aarch64")]
    Neon,
}

impl Level {
    /// The best that the machine has; the environment variable `ENGRAFT_SIMD` (`portable`, `avx2`, `avx512`, `neon`) may name a
    /// lesser one. A name that the machine does not have changes nothing.
    pub fn detect() -> Level {
        static BEST: OnceLock<Level> = OnceLock::new();
        *BEST.get_or_init(|| {
            let levels = Level::all();
            let wanted = std::env::var("ENGRAFT_SIMD").unwrap_or_default();
            let named = levels.iter().find(|level| level.to_string() == wanted);
            *named.or(levels.last()).unwrap_or(&Level(Set::Portable))
        })
    }

    /// All that the machine has, the simplest first.
    pub fn all() -> Vec<Level> {
        let mut levels = vec![Level(Set::Portable)];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                levels.push(Level(Set::Avx2));
            }
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq");
            if avx512 && levels.len() == 2 {
                levels.push(Level(Set::Avx512));
            }
        }
        #[cfg(target_arch = "aarch64")]
        levels.push(Level(Set::Neon));
        levels
    }

    /// Values in a vector.
    pub(crate) fn lanes(self) -> usize {
        self.run(Widths)[0]
    }

    /// Values in a vector of the narrower kind.
    pub(crate) fn half_lanes(self) -> usize {
        self.run(Widths)[1]
    }

    /// Rows of the matrix product's tile.
    pub(crate) fn tile_rows(self) -> usize {
        self.run(Widths)[2]
    }

    /// Runs a kernel, compiled for this instruction set.
    #[inline]
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        // SAFETY: a `Level` is only made for an instruction set that the machine has.
        unsafe {
            match self.0 {
                Set::Portable => kernel.run::<Portable>(),
                #[cfg(target_arch = "x86_64")]
                Set::Avx2 => with_avx2(kernel),
                #[cfg(target_arch = "x86_64")]
                Set::Avx512 => with_avx512(kernel),
                #[cfg(target_arch = "aarch64")]
                Set::Neon => kernel.run::<Neon>(),
            }
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Set::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => "avx512",
            #[cfg(target_arch = "aarch64")]
            Set::Neon => "neon",
        })
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn with_avx2<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: as the caller's.
    unsafe { kernel.run::<Avx2>() }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx2,fma")]
unsafe fn with_avx512<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: as the caller's.
    unsafe { kernel.run::<Avx512>() }
}
