//! Winograd's inner product against `f64`, where rows and columns differ in size by all that `f32` has.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::backend::cases::random;

/// Every instruction set with the kernels.
fn cpus() -> impl Iterator<Item = Cpu> {
    let cpus = Simd::available().into_iter().map(|simd| Cpu::with_simd(2, None, simd).unwrap());
    cpus.filter(|cpu| cpu.device.kernels.inner.is_some())
}

fn weight_of(cpu: &Cpu, values: &[f32], [n, k]: [usize; 2]) -> CpuLinear {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    cpu.prepare_linear(Weight { dtype: DType::F32, shape: &[n, k], bytes: &bytes }, None).unwrap()
}

fn multiply(cpu: &Cpu, x: &[f32], weight: &[f32], [m, n, k]: [usize; 3]) -> Vec<f32> {
    let x = cpu.upload(Shape::tokens(1, m, k), x).unwrap();
    let weight = weight_of(cpu, weight, [n, k]);
    cpu.linear(&x, &weight, Epilogue::default()).unwrap().values().to_vec()
}

/// The error of every product of a row and a column, by the sizes of both.
fn worst(y: &[f32], x: &[f32], weight: &[f32], k: usize) -> f64 {
    let size = |row: &[f32]| row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    let rows = x.chunks_exact(k).flat_map(|row| weight.chunks_exact(k).map(move |column| (row, column)));
    let errors = rows.zip(y).map(|((row, column), y)| {
        let exact: f64 = row.iter().zip(column).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
        (f64::from(*y) - exact).abs() / (size(row) * size(column))
    });
    errors.fold(0.0, f64::max)
}

#[test]
fn rows_and_columns_of_any_size_keep_their_digits() {
    for cpu in cpus() {
        // All heights of tiles and all remainders of three; one block of the sum and several.
        for (m, n, k) in [(7, 9, 3), (12, 32, 40), (25, 49, 77), (61, 33, 320), (30, 40, 641), (13, 16, 1282)]
        {
            let power = |i: usize| 10f32.powi((i * 7 % 25) as i32 - 12);
            let scaled = |rows: usize, seed| -> Vec<f32> {
                let values = random(rows * k, seed);
                values.iter().enumerate().map(|(i, value)| value * power(i / k)).collect()
            };
            let (x, weight) = (scaled(m, 1), scaled(n, 2));
            let y = multiply(&cpu, &x, &weight, [m, n, k]);
            let error = worst(&y, &x, &weight, k);
            assert!(error < 6e-7, "{m} × {k} → {n}: {error:e}");
        }
    }
}

#[test]
fn one_large_value_does_not_cost_the_others_their_digits() {
    let [m, n, k] = [24, 64, 320];
    for cpu in cpus() {
        let (mut x, mut weight) = (random(m * k, 1), random(n * k, 2));
        for row in 0..m {
            x[row * k + row * 13 % k] = 3e4;
        }
        for column in 0..n {
            weight[column * k + column * 7 % k] *= 1e3;
        }
        let y = multiply(&cpu, &x, &weight, [m, n, k]);
        let error = worst(&y, &x, &weight, k);
        assert!(error < 6e-7, "{error:e}");
    }
}

#[test]
fn nothing_of_a_row_or_column_reaches_another() {
    let [m, n, k] = [26, 40, 100];
    for cpu in cpus() {
        let (mut x, mut weight) = (random(m * k, 1), random(n * k, 2));
        let clean = multiply(&cpu, &x, &weight, [m, n, k]);
        x[k..2 * k].fill(0.0);
        x[2 * k + 5] = f32::NAN;
        x[3 * k..4 * k].fill(3e38);
        x[4 * k..5 * k].fill(1e-45);
        weight[k..2 * k].fill(0.0);
        weight[2 * k + 5] = f32::NAN;
        weight[3 * k + 7] = f32::INFINITY;
        let y = multiply(&cpu, &x, &weight, [m, n, k]);
        for (row, (y, clean)) in y.chunks_exact(n).zip(clean.chunks_exact(n)).enumerate() {
            for (column, (y, clean)) in y.iter().zip(clean).enumerate() {
                let at = format!("row {row}, column {column}: {y}");
                match (row, column) {
                    (2, _) | (_, 2) => assert!(y.is_nan(), "{at}"),
                    (_, 3) | (3, _) => (),
                    (1 | 4, _) | (_, 1) => assert!(y.abs() < 1e-20, "{at}"),
                    _ => assert!(y == clean, "{at}, not {clean}"),
                }
            }
        }
    }
}

#[test]
fn strict_and_single_rows_multiply_plainly() {
    let [n, k] = [40, 96];
    for cpu in cpus() {
        let simd = Simd::available().into_iter().find(|simd| simd.name() == "AVX-512").unwrap();
        let plain = Cpu::with_simd(2, None, simd).unwrap();
        for m in [1, 30] {
            let (x, weight) = (random(m * k, 1), random(n * k, 2));
            let expected = multiply(&plain, &x, &weight, [m, n, k]);
            assert!(multiply(&cpu.with_strict(true), &x, &weight, [m, n, k]) == expected, "{m} rows");
            assert!((multiply(&cpu, &x, &weight, [m, n, k]) == expected) == (m == 1), "{m} rows");
        }
    }
}
