//! The transforms of fast 3×3 convolutions, each a few additions and multiplications on vectors of channels.
//!
//! A fast convolution computes a square tile of the output at once (Winograd, "Arithmetic Complexity of Computations",
//! 1980; Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2016): a patch of the input and the
//! filter are each transformed to a square of points, multiplied point by point, summed over the input's channels, and
//! the sums transformed to the tile. In two dimensions a transform is that of one, down the columns and along the rows.

use super::kernel::Vector;

/// The largest side of a patch, and of the square of points.
const SIDE: usize = 6;

/// A fast convolution in one dimension. What is past a side of an array is not used.
pub(super) trait Family {
    /// Side of the patch of input that a tile needs.
    const PATCH: usize;
    /// Side of the square of points.
    const POINTS: usize;
    /// Side of the tile of output.
    const TILE: usize;
    /// What the transform multiplies the size of a filter of independent taps by, at each point: so many times √2, about.
    const SIZES: [i32; SIDE];

    fn data<V: Vector>(d: [V; SIDE]) -> [V; SIDE];
    fn filter<V: Vector>(g: [V; 3]) -> [V; SIDE];
    fn output<V: Vector>(p: [V; SIDE]) -> [V; 4];
}

/// Winograd's F(4×4, 3×3): 36 products for 16 pixels, where the definition has 144.
///
/// Its points are 0, ∞, ±√½ and ±√2. With the 0, ±1, ±2 and ∞ of Lavin and Gray the sums differ more in size, and the
/// error is twice as large.
pub(super) struct Winograd4;

impl Family for Winograd4 {
    const PATCH: usize = 6;
    const POINTS: usize = 6;
    const TILE: usize = 4;
    const SIZES: [i32; SIDE] = [0, 0, 1, 1, 3, 3];

    #[inline(always)]
    fn data<V: Vector>(d: [V; SIDE]) -> [V; SIDE] {
        let even = |factor| d[2].mul_add(V::splat(factor), d[4]);
        let odd = |factor| d[1].mul_add(V::splat(factor), d[3]);
        let (low, high) = (V::splat(SQRT_HALF), V::splat(SQRT_TWO));
        let (minus_low, minus_high) = (V::splat(-SQRT_HALF), V::splat(-SQRT_TWO));
        let (even_low, odd_low) = (even(-2.0), odd(-2.0));
        let (even_high, odd_high) = (even(-0.5), odd(-0.5));
        [
            d[2].mul_add(V::splat(-2.5), d[0].add(d[4])),
            d[3].mul_add(V::splat(-2.5), d[1].add(d[5])),
            odd_low.mul_add(low, even_low),
            odd_low.mul_add(minus_low, even_low),
            odd_high.mul_add(high, even_high),
            odd_high.mul_add(minus_high, even_high),
        ]
    }

    #[inline(always)]
    fn filter<V: Vector>(g: [V; 3]) -> [V; SIDE] {
        let (low, high) = (g[2].mul_add(V::splat(0.5), g[0]), g[2].mul_add(V::splat(2.0), g[0]));
        [
            g[0],
            g[2],
            g[1].mul_add(V::splat(SQRT_HALF), low),
            g[1].mul_add(V::splat(-SQRT_HALF), low),
            g[1].mul_add(V::splat(SQRT_TWO), high),
            g[1].mul_add(V::splat(-SQRT_TWO), high),
        ]
    }

    #[inline(always)]
    fn output<V: Vector>(p: [V; SIDE]) -> [V; 4] {
        // The polynomial through the points has the derivative -3/2 at ±√½ and 6 at ±√2. To divide by them here is free.
        const LOW: f32 = 1.0 / -1.5;
        const HIGH: f32 = 1.0 / 6.0;
        let (even_low, even_high) = (p[2].add(p[3]), p[4].add(p[5]));
        let odd_low = p[2].sub(p[3]).mul(V::splat(LOW * SQRT_HALF));
        let odd_high = p[4].sub(p[5]).mul(V::splat(HIGH * SQRT_TWO));
        [
            even_low.mul_add(V::splat(LOW), even_high.mul_add(V::splat(HIGH), p[0])),
            odd_low.add(odd_high),
            even_low.mul_add(V::splat(0.5 * LOW), even_high.mul(V::splat(2.0 * HIGH))),
            odd_low.mul_add(V::splat(0.5), odd_high.mul_add(V::splat(2.0), p[1])),
        ]
    }
}

const SQRT_HALF: f32 = std::f32::consts::FRAC_1_SQRT_2;
const SQRT_TWO: f32 = std::f32::consts::SQRT_2;

/// Winograd's F(2×2, 3×3) at the points 0, ±1 and ∞: 16 products for 4 pixels, where the definition has 36.
pub(super) struct Winograd2;

impl Family for Winograd2 {
    const PATCH: usize = 4;
    const POINTS: usize = 4;
    const TILE: usize = 2;
    const SIZES: [i32; SIDE] = [0; SIDE];

    #[inline(always)]
    fn data<V: Vector>(d: [V; SIDE]) -> [V; SIDE] {
        [d[0].sub(d[2]), d[1].add(d[2]), d[2].sub(d[1]), d[1].sub(d[3]), d[0], d[0]]
    }

    #[inline(always)]
    fn filter<V: Vector>(g: [V; 3]) -> [V; SIDE] {
        let half = V::splat(0.5);
        let (even, odd) = (g[0].add(g[2]).mul(half), g[1].mul(half));
        [g[0], even.add(odd), even.sub(odd), g[2], g[0], g[0]]
    }

    #[inline(always)]
    fn output<V: Vector>(p: [V; SIDE]) -> [V; 4] {
        [p[0].add(p[1]).add(p[2]), p[1].sub(p[2]).sub(p[3]), p[0], p[0]]
    }
}

/// F(4×4, 3×3) of an image that was enlarged twofold, from the small image: 25 products for 16 pixels.
///
/// A patch of the large image has each inner pixel twice, (a, b, b, c, c, d). Of the points 0, ±1, ±2 and ∞ the one at -1
/// is then 0 whatever the pixels: it is left out.
pub(super) struct Enlarged;

impl Family for Enlarged {
    const PATCH: usize = 4;
    const POINTS: usize = 5;
    const TILE: usize = 4;
    const SIZES: [i32; SIDE] = [0, 2, 4, 4, 0, 0];

    #[inline(always)]
    fn data<V: Vector>(d: [V; SIDE]) -> [V; SIDE] {
        let [a, b, c, d, ..] = d;
        let (four, minus_five) = (V::splat(4.0), V::splat(-5.0));
        let difference = b.sub(c);
        [
            a.mul_add(four, b.mul_add(minus_five, c)),
            b.mul_add(V::splat(-8.0), c.add(c)),
            difference.mul(V::splat(-3.0)),
            difference,
            b.mul_add(four, c.mul_add(minus_five, d)),
            d,
        ]
    }

    #[inline(always)]
    fn filter<V: Vector>(g: [V; 3]) -> [V; SIDE] {
        let even = g[2].mul_add(V::splat(4.0), g[0]);
        [
            g[0],
            g[0].add(g[1]).add(g[2]),
            g[1].mul_add(V::splat(2.0), even),
            g[1].mul_add(V::splat(-2.0), even),
            g[2],
            g[2],
        ]
    }

    #[inline(always)]
    fn output<V: Vector>(p: [V; SIDE]) -> [V; 4] {
        // The derivatives at the points 0, 1, 2, -2: 4, -6, 24, 24.
        let (even, odd) = (p[2].add(p[3]), p[2].sub(p[3]));
        let one = p[1].mul(V::splat(-1.0 / 6.0));
        [
            p[0].mul_add(V::splat(0.25), even.mul_add(V::splat(1.0 / 24.0), one)),
            odd.mul_add(V::splat(1.0 / 12.0), one),
            even.mul_add(V::splat(1.0 / 6.0), one),
            odd.mul_add(V::splat(1.0 / 3.0), one.add(p[4])),
        ]
    }
}

/// A convolution of an image that was enlarged twofold, as the four of 2×2 that it is on the small image, with sums of
/// the filter's taps: 16 products for 4 pixels and nothing but the rounding of those sums.
pub(super) struct Phases;

impl Family for Phases {
    const PATCH: usize = 3;
    const POINTS: usize = 4;
    const TILE: usize = 2;
    const SIZES: [i32; SIDE] = [0, 1, 1, 0, 0, 0];

    #[inline(always)]
    fn data<V: Vector>(d: [V; SIDE]) -> [V; SIDE] {
        [d[0], d[1], d[1], d[2], d[0], d[0]]
    }

    #[inline(always)]
    fn filter<V: Vector>(g: [V; 3]) -> [V; SIDE] {
        [g[0], g[1].add(g[2]), g[0].add(g[1]), g[2], g[0], g[0]]
    }

    #[inline(always)]
    fn output<V: Vector>(p: [V; SIDE]) -> [V; 4] {
        [p[0].add(p[1]), p[2].add(p[3]), p[0], p[0]]
    }
}

/// A family's transforms in two dimensions, for one instruction set.
pub(super) struct Transforms {
    /// Sides, see [`Family`].
    pub(super) patch: usize,
    pub(super) points: usize,
    pub(super) tile: usize,
    pub(super) sizes: [i32; SIDE],
    /// All points at once.
    pub(super) whole: Pass,
    /// Two rows of points at a time, the last of an odd number alone.
    pub(super) passes: &'static [Pass],
    /// See [`output`].
    pub(super) output: unsafe fn(*const f32, usize, usize, *mut f32, usize),
}

/// The transforms to some rows of points.
pub(super) struct Pass {
    /// The first point.
    pub(super) first: usize,
    /// How many.
    pub(super) count: usize,
    /// See [`data`] and, for taps in f32 and in f16, [`filter`].
    pub(super) data: unsafe fn(*const *const f32, usize, *mut f32, usize),
    pub(super) filter: unsafe fn(&[*const f32; 9], usize, *mut f32, usize),
    pub(super) filter_f16: unsafe fn(&[*const u16; 9], usize, *mut f32, usize),
}

/// The transforms of one instruction set.
pub(super) struct AllTransforms {
    pub(super) four: Transforms,
    pub(super) two: Transforms,
    pub(super) enlarged: Transforms,
    pub(super) phases: Transforms,
}

/// Transforms `vectors` vectors of channels of the patch whose pixels lie at `pixels`, to `COUNT` rows of points from row
/// `FIRST` on; the points lie `stride` values apart.
///
/// # Safety
/// `pixels` has `PATCH²` pointers to so many channels, and `to` has room for so many of each point.
#[inline(always)]
pub(super) unsafe fn data<V: Vector, F: Family, const FIRST: usize, const COUNT: usize>(
    pixels: *const *const f32,
    vectors: usize,
    to: *mut f32,
    stride: usize,
) {
    for vector in 0..vectors {
        let at = vector * V::LANES;
        let mut columns = [[V::splat(0.0); SIDE]; SIDE];
        for x in 0..F::PATCH {
            let mut d = [V::splat(0.0); SIDE];
            for (y, d) in d.iter_mut().enumerate().take(F::PATCH) {
                // SAFETY: the caller vouches for the pixels and their channels.
                *d = unsafe { V::load((*pixels.wrapping_add(y * F::PATCH + x)).wrapping_add(at)) };
            }
            for (row, point) in columns.iter_mut().zip(F::data(d)) {
                row[x] = point;
            }
        }
        for (y, row) in columns.into_iter().skip(FIRST).take(COUNT).enumerate() {
            for (x, point) in F::data(row).into_iter().enumerate().take(F::POINTS) {
                // SAFETY: the caller vouches for the room.
                unsafe { point.store(to.wrapping_add((y * F::POINTS + x) * stride + at)) };
            }
        }
    }
}

/// What a filter's taps are stored as.
pub(super) trait Tap: Sized {
    /// # Safety
    /// There is a vector of values.
    unsafe fn load<V: Vector>(from: *const Self) -> V;
}

impl Tap for f32 {
    #[inline(always)]
    unsafe fn load<V: Vector>(from: *const Self) -> V {
        // SAFETY: passed on to the caller.
        unsafe { V::load(from) }
    }
}

/// f16.
impl Tap for u16 {
    #[inline(always)]
    unsafe fn load<V: Vector>(from: *const Self) -> V {
        // SAFETY: passed on to the caller.
        unsafe { V::load_f16(from) }
    }
}

/// Transforms `vectors` vectors of the filter, whose taps lie at `taps`, to `COUNT` rows of points from row `FIRST` on;
/// the points lie `stride` values apart.
///
/// # Safety
/// The taps point to so many vectors, and `to` has room for so many of each point.
#[inline(always)]
pub(super) unsafe fn filter<V: Vector, F: Family, T: Tap, const FIRST: usize, const COUNT: usize>(
    taps: &[*const T; 9],
    vectors: usize,
    to: *mut f32,
    stride: usize,
) {
    for vector in 0..vectors {
        let at = vector * V::LANES;
        let mut columns = [[V::splat(0.0); 3]; SIDE];
        for x in 0..3 {
            // SAFETY: the caller vouches for the taps.
            let tap = |y: usize| unsafe { T::load::<V>(taps[y * 3 + x].wrapping_add(at)) };
            for (row, point) in columns.iter_mut().zip(F::filter([tap(0), tap(1), tap(2)])) {
                row[x] = point;
            }
        }
        for (y, row) in columns.into_iter().skip(FIRST).take(COUNT).enumerate() {
            for (x, point) in F::filter(row).into_iter().enumerate().take(F::POINTS) {
                // SAFETY: the caller vouches for the room.
                unsafe { point.store(to.wrapping_add((y * F::POINTS + x) * stride + at)) };
            }
        }
    }
}

/// Transforms `vectors` vectors of sums, whose points lie `stride` values apart, to the pixels of a tile, which lie
/// `to_stride` values apart.
///
/// # Safety
/// `sums` has `POINTS²` rows of so many vectors, and `to` has room for `TILE²`.
#[inline(always)]
pub(super) unsafe fn output<V: Vector, F: Family>(
    sums: *const f32,
    stride: usize,
    vectors: usize,
    to: *mut f32,
    to_stride: usize,
) {
    for vector in 0..vectors {
        let at = vector * V::LANES;
        let mut columns = [[V::splat(0.0); SIDE]; 4];
        for x in 0..F::POINTS {
            let mut p = [V::splat(0.0); SIDE];
            for (y, p) in p.iter_mut().enumerate().take(F::POINTS) {
                // SAFETY: the caller vouches for the sums.
                *p = unsafe { V::load(sums.wrapping_add((y * F::POINTS + x) * stride + at)) };
            }
            for (row, pixel) in columns.iter_mut().zip(F::output(p)) {
                row[x] = pixel;
            }
        }
        for (y, row) in columns.into_iter().enumerate().take(F::TILE) {
            for (x, pixel) in F::output(row).into_iter().enumerate().take(F::TILE) {
                // SAFETY: the caller vouches for the room.
                unsafe { pixel.store(to.wrapping_add((y * F::TILE + x) * to_stride + at)) };
            }
        }
    }
}

/// The [`AllTransforms`] made of three functions that are generic over the vector and the family.
macro_rules! all_transforms {
    ($data:ident, $filter:ident, $output:ident, $vector:ty) => {
        $crate::backend::cpu::transform::AllTransforms {
            four: all_transforms!(@ Winograd4, 6, [0 2, 2 2, 4 2], $data, $filter, $output, $vector),
            two: all_transforms!(@ Winograd2, 4, [0 2, 2 2], $data, $filter, $output, $vector),
            enlarged: all_transforms!(@ Enlarged, 5, [0 2, 2 2, 4 1], $data, $filter, $output, $vector),
            phases: all_transforms!(@ Phases, 4, [0 2, 2 2], $data, $filter, $output, $vector),
        }
    };
    (@ $family:ident, $rows:literal, [$($first:literal $count:literal),*], $data:ident, $filter:ident, $output:ident,
     $vector:ty) => {{
        use $crate::backend::cpu::transform::{$family, Family, Pass, Transforms};
        const SIDE: usize = $family::POINTS;
        const PASSES: &[Pass] = &[$(Pass {
            first: $first * SIDE,
            count: $count * SIDE,
            data: $data::<$vector, $family, $first, $count>,
            filter: $filter::<$vector, $family, f32, $first, $count>,
            filter_f16: $filter::<$vector, $family, u16, $first, $count>,
        }),*];
        Transforms {
            patch: $family::PATCH,
            points: SIDE,
            tile: $family::TILE,
            sizes: $family::SIZES,
            whole: Pass {
                first: 0,
                count: SIDE * SIDE,
                data: $data::<$vector, $family, 0, $rows>,
                filter: $filter::<$vector, $family, f32, 0, $rows>,
                filter_f16: $filter::<$vector, $family, u16, 0, $rows>,
            },
            passes: PASSES,
            output: $output::<$vector, $family>,
        }
    }};
}

pub(super) use all_transforms;
