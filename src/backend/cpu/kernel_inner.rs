//! Micro-kernels that let idle adders do a part of the multiplications (12 × 32, AVX-512).
//!
//! Winograd's inner product (S. Winograd, "A New Algorithm for Inner Product", IEEE Transactions on Computers C-17, 1968)
//! takes one multiplication for two products:
//!
//! ```text
//! a₁b₁ + a₂b₂ = (a₁ + b₂)(a₂ + b₁) − a₁a₂ − b₁b₂
//! ```
//!
//! The last two terms are sums of a row of A and of a column of B alone, so that a matrix product hardly notices them. Where
//! one unit does both, two additions cost more than the multiplication they save. AMD's Zen processors have two units for
//! multiply-adds and two more for additions: of every three products two are taken so and one is a plain multiply-add,
//! which keeps all four busy. That is 1.5 times what multiply-adds alone can reach.
//!
//! The sums of a value of A and one of B round to the larger of the two. So rows of A and columns of B are brought to one
//! size first, each by a power of two of its own, see [`inner`](super::inner). The error is then at most a few times that of
//! plain sums.

use std::arch::asm;
use std::mem::offset_of;

use super::inner;
use super::inner::{InnerKernels, InnerTile, InnerTiles};
use super::kernel_inner_rows::{column_sums, scale_rows, widen_f16};

/// What the assembly reads.
#[repr(C)]
struct Arguments {
    /// Where each third of the products ends.
    a: [*const f32; 3],
    b: [*const f32; 3],
    /// Bytes of A, and of B, in a third, negative.
    minus_third: [isize; 2],
    /// Bytes from one value of a row of A to the next.
    a_step: usize,
    /// Bytes of A in what is left over, at most two products.
    rest: usize,
    row_sums: *const f32,
    column_sums: *const f32,
    row_scales: *const f32,
    column_scales: *const f32,
    c: *mut f32,
    /// Bytes from one row of C to the next.
    c_step: usize,
    accumulate: usize,
}

impl Arguments {
    /// For columns of `width`.
    #[inline(always)]
    fn new(t: &InnerTile, width: usize) -> Self {
        let third = t.k / 3;
        let ends = [third, 2 * third, 3 * third];
        Self {
            a: ends.map(|end| t.a.wrapping_add(end * t.step)),
            b: ends.map(|end| t.b.wrapping_add(end * width)),
            minus_third: [t.step, width].map(|step| -((third * step * size_of::<f32>()) as isize)),
            a_step: t.step * size_of::<f32>(),
            rest: (t.k - 3 * third) * t.step * size_of::<f32>(),
            row_sums: t.row_sums,
            column_sums: t.column_sums,
            row_scales: t.row_scales,
            column_scales: t.column_scales,
            c: t.c,
            c_step: t.stride * size_of::<f32>(),
            accumulate: usize::from(t.accumulate),
        }
    }
}

/// The register of a row's sums, in the first vector and in the second.
#[rustfmt::skip]
macro_rules! sum {
    (0 0) => { "zmm8" }; (1 0) => { "zmm9" }; (2 0) => { "zmm10" }; (3 0) => { "zmm11" };
    (4 0) => { "zmm12" }; (5 0) => { "zmm13" }; (6 0) => { "zmm14" }; (7 0) => { "zmm15" };
    (8 0) => { "zmm16" }; (9 0) => { "zmm17" }; (10 0) => { "zmm18" }; (11 0) => { "zmm19" };
    (0 1) => { "zmm20" }; (1 1) => { "zmm21" }; (2 1) => { "zmm22" }; (3 1) => { "zmm23" };
    (4 1) => { "zmm24" }; (5 1) => { "zmm25" }; (6 1) => { "zmm26" }; (7 1) => { "zmm27" };
    (8 1) => { "zmm28" }; (9 1) => { "zmm29" }; (10 1) => { "zmm30" }; (11 1) => { "zmm31" };
}

/// The register of a row of B: of the first, the second or the last third of the products, in the first vector or the
/// second.
#[rustfmt::skip]
macro_rules! b {
    (first 0) => { "zmm0" }; (second 0) => { "zmm1" }; (last 0) => { "zmm2" };
    (first 1) => { "zmm3" }; (second 1) => { "zmm4" }; (last 1) => { "zmm5" };
}

/// A row's instructions: for each vector of columns those given.
macro_rules! for_vectors {
    ($row:tt, [$($v:tt)*], $with:ident) => { concat!($($with!($row $v)),*) };
}

/// The sums to begin with.
macro_rules! begin {
    ($row:tt $v:tt) => {
        concat!("vaddps ", sum!($row $v), ", ", b!(first $v), ", dword ptr [{ap} + 4*", $row, "]{{1to16}}\n")
    };
}

/// Three products, two of them by one multiplication; zmm6 and zmm7 are its factors.
macro_rules! multiply {
    ($row:tt $v:tt) => {
        concat!(
            "vaddps zmm6, ", b!(second $v), ", dword ptr [{ap} + {i} + ", $row, "*{step}]{{1to16}}\n",
            "vaddps zmm7, ", b!(first $v), ", dword ptr [{aq} + {i} + ", $row, "*{step}]{{1to16}}\n",
            rest!($row $v),
            "vfmadd231ps ", sum!($row $v), ", zmm6, zmm7\n",
        )
    };
}

/// One product.
macro_rules! rest {
    ($row:tt $v:tt) => {
        concat!(
            "vfmadd231ps ", sum!($row $v), ", ", b!(last $v),
            ", dword ptr [{ar} + {i} + ", $row, "*{step}]{{1to16}}\n",
        )
    };
}

/// The sums divided by the powers of two that the factors were multiplied with.
macro_rules! scale {
    ($row:tt $v:tt) => {
        concat!(
            "vmulps zmm6, ", b!(first $v), ", dword ptr [{ap} + 4*", $row, "]{{1to16}}\n",
            "vmulps zmm6, zmm6, ", sum!($row $v), "\n",
            "vmovups [{bp} + 64*", $v, "], zmm6\n",
        )
    };
}

/// The same, added to what is there.
macro_rules! add {
    ($row:tt $v:tt) => {
        concat!(
            "vmulps zmm6, ", b!(first $v), ", dword ptr [{ap} + 4*", $row, "]{{1to16}}\n",
            "vfmadd213ps zmm6, ", sum!($row $v), ", [{bp} + 64*", $v, "]\n",
            "vmovups [{bp} + 64*", $v, "], zmm6\n",
        )
    };
}

/// Defines the kernel for some rows of A, `STRIDE` values apart, and vectors of columns.
///
/// It is assembly because a value of A must be an operand in memory of every instruction, which costs nothing. Compilers
/// load it to a register once for both vectors; in 512 bits that takes the place of a multiply-add.
macro_rules! kernel {
    ($name:ident, $vectors:tt, $([$row:tt])*) => { kernel!(@ $name, $vectors, $vectors, $([$row])*); };
    (@ $name:ident, [$($v:tt)*], $vectors:tt, $([$row:tt])*) => {
        /// # Safety
        /// See [`InnerTiles`].
        #[target_feature(enable = "avx512f")]
        unsafe fn $name<const STRIDE: usize>(t: &InnerTile) {
            const WIDTH: usize = 16 * [$($v),*].len();
            let arguments = Arguments::new(t, WIDTH);
            // SAFETY: the caller vouches for the pointers; all that is written are the tile and the registers named here.
            unsafe {
                asm!(
                    "mov {ap}, [{t} + {column_sums}]",
                    $(concat!("vmovups ", b!(first $v), ", [{ap} + 64*", $v, "]"),)*
                    "mov {ap}, [{t} + {row_sums}]",
                    $(for_vectors!($row, $vectors, begin),)*
                    "mov {ap}, [{t} + {a}]",
                    "mov {aq}, [{t} + {a} + 8]",
                    "mov {ar}, [{t} + {a} + 16]",
                    "mov {bp}, [{t} + {b}]",
                    "mov {bq}, [{t} + {b} + 8]",
                    "mov {br}, [{t} + {b} + 16]",
                    // Offsets from the ends.
                    "mov {i}, [{t} + {minus_third}]",
                    "mov {j}, [{t} + {minus_third} + 8]",
                    "mov {as}, [{t} + {a_step}]",
                    "test {i}, {i}",
                    "jz 3f",
                    ".p2align 6",
                    "2:",
                    $(
                        concat!("vmovups ", b!(first $v), ", [{bp} + {j} + 64*", $v, "]"),
                        concat!("vmovups ", b!(second $v), ", [{bq} + {j} + 64*", $v, "]"),
                        concat!("vmovups ", b!(last $v), ", [{br} + {j} + 64*", $v, "]"),
                    )*
                    $(for_vectors!($row, $vectors, multiply),)*
                    "add {j}, 4*{width}",
                    "add {i}, {as}",
                    "jnz 2b",
                    "3:",
                    "cmp {i}, [{t} + {rest}]",
                    "je 4f",
                    $(concat!("vmovups ", b!(last $v), ", [{br} + {j} + 64*", $v, "]"),)*
                    $(for_vectors!($row, $vectors, rest),)*
                    "add {j}, 4*{width}",
                    "add {i}, {as}",
                    "jmp 3b",
                    "4:",
                    "mov {ap}, [{t} + {column_scales}]",
                    $(concat!("vmovups ", b!(first $v), ", [{ap} + 64*", $v, "]"),)*
                    "mov {ap}, [{t} + {row_scales}]",
                    "mov {bp}, [{t} + {c}]",
                    "mov {bq}, [{t} + {c_step}]",
                    "cmp qword ptr [{t} + {accumulate}], 0",
                    "jne 5f",
                    $(for_vectors!($row, $vectors, scale), "add {bp}, {bq}",)*
                    "jmp 6f",
                    "5:",
                    $(for_vectors!($row, $vectors, add), "add {bp}, {bq}",)*
                    "6:",
                    t = in(reg) &arguments,
                    ap = out(reg) _, aq = out(reg) _, ar = out(reg) _,
                    bp = out(reg) _, bq = out(reg) _, br = out(reg) _,
                    i = out(reg) _, j = out(reg) _, as = out(reg) _,
                    width = const WIDTH,
                    step = const STRIDE * size_of::<f32>(),
                    a = const offset_of!(Arguments, a),
                    b = const offset_of!(Arguments, b),
                    minus_third = const offset_of!(Arguments, minus_third),
                    a_step = const offset_of!(Arguments, a_step),
                    rest = const offset_of!(Arguments, rest),
                    row_sums = const offset_of!(Arguments, row_sums),
                    column_sums = const offset_of!(Arguments, column_sums),
                    row_scales = const offset_of!(Arguments, row_scales),
                    column_scales = const offset_of!(Arguments, column_scales),
                    c = const offset_of!(Arguments, c),
                    c_step = const offset_of!(Arguments, c_step),
                    accumulate = const offset_of!(Arguments, accumulate),
                    out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _, out("zmm4") _, out("zmm5") _,
                    out("zmm6") _, out("zmm7") _, out("zmm8") _, out("zmm9") _, out("zmm10") _, out("zmm11") _,
                    out("zmm12") _, out("zmm13") _, out("zmm14") _, out("zmm15") _, out("zmm16") _,
                    out("zmm17") _, out("zmm18") _, out("zmm19") _, out("zmm20") _, out("zmm21") _,
                    out("zmm22") _, out("zmm23") _, out("zmm24") _, out("zmm25") _, out("zmm26") _,
                    out("zmm27") _, out("zmm28") _, out("zmm29") _, out("zmm30") _, out("zmm31") _,
                    options(nostack),
                );
            }
        }
    };
}

/// Defines the kernels for one row to twelve.
macro_rules! kernels {
    ($name:ident, $vectors:tt, $([$height:ident $($row:tt)*])*) => {
        mod $name {
            use super::*;

            $(kernel!($height, $vectors, $([$row])*);)*

            pub(super) const fn all<const STRIDE: usize>() -> &'static [unsafe fn(&InnerTile)] {
                &[$($height::<STRIDE>),*]
            }
        }
    };
    ($name:ident, $vectors:tt) => {
        kernels!(
            $name,
            $vectors,
            [one 0]
            [two 0 1]
            [three 0 1 2]
            [four 0 1 2 3]
            [five 0 1 2 3 4]
            [six 0 1 2 3 4 5]
            [seven 0 1 2 3 4 5 6]
            [eight 0 1 2 3 4 5 6 7]
            [nine 0 1 2 3 4 5 6 7 8]
            [ten 0 1 2 3 4 5 6 7 8 9]
            [eleven 0 1 2 3 4 5 6 7 8 9 10]
            [twelve 0 1 2 3 4 5 6 7 8 9 10 11]
        );
    };
}

kernels!(full, [0 1]);
kernels!(half, [0]);

/// The kernels for rows so many values apart.
const fn tiles<const STRIDE: usize>() -> InnerTiles {
    InnerTiles { full: full::all::<STRIDE>(), half: half::all::<STRIDE>() }
}

pub(super) static INNER: InnerKernels = InnerKernels {
    layers: tiles::<{ inner::LAYER_STRIDE }>(),
    fast: tiles::<{ inner::FAST_STRIDE }>(),
    turned: tiles::<1>(),
    widen_f16,
    scale_rows,
    column_sums,
};
