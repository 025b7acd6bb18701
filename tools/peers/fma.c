/* The most multiply-adds in f32 that this machine does: independent chains in registers, on THREADS threads at once.
 *
 *   cc -O2 -pthread fma.c -o fma && ./fma THREADS avx2|avx512
 *
 * Prints one number, GFLOP/s of all threads together: for each the median of its slices of some milliseconds. */
#include <immintrin.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SLICES = 60, REPEATS = 16, ROUNDS = 1 << 16, CHAINS = 12, THREADS_MAX = 1024 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* One statement for all chains, so that they stay in registers; volatile, because nobody reads the sums. */
#define MULTIPLY_ADD(i) "vfmadd213ps %12, %12, %" #i "\n\t"
#define KERNEL(name, features, vector)                                                                             \
    __attribute__((target(features))) static void name(void) {                                                     \
        vector a = {0}, b = a, c = a, d = a, e = a, f = a, g = a, h = a, k = a, l = a, m = a, n = a;               \
        const vector x = a + 0.5f;                                                                                 \
        for (int i = 0; i < ROUNDS; i++) {                                                                         \
            __asm__ volatile(MULTIPLY_ADD(0) MULTIPLY_ADD(1) MULTIPLY_ADD(2) MULTIPLY_ADD(3) MULTIPLY_ADD(4)       \
                             MULTIPLY_ADD(5) MULTIPLY_ADD(6) MULTIPLY_ADD(7) MULTIPLY_ADD(8) MULTIPLY_ADD(9)       \
                             MULTIPLY_ADD(10) MULTIPLY_ADD(11)                                                     \
                             : "+x"(a), "+x"(b), "+x"(c), "+x"(d), "+x"(e), "+x"(f), "+x"(g), "+x"(h), "+x"(k),    \
                               "+x"(l), "+x"(m), "+x"(n)                                                           \
                             : "x"(x));                                                                            \
        }                                                                                                          \
    }
KERNEL(avx512, "avx512f", __m512)
KERNEL(avx2, "avx2,fma", __m256)

static void (*kernel)(void);
static double lanes;
static double rates[THREADS_MAX];

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void *measure(void *rate) {
    double slices[SLICES];
    for (int s = 0; s < SLICES; s++) {
        double start = now();
        for (int i = 0; i < REPEATS; i++) kernel();
        slices[s] = 2.0 * REPEATS * CHAINS * lanes * ROUNDS / (now() - start) / 1e9;
    }
    qsort(slices, SLICES, sizeof *slices, ascending);
    *(double *)rate = slices[SLICES / 2];
    return NULL;
}

int main(int argc, char **argv) {
    int threads = argc == 3 ? atoi(argv[1]) : 0;
    if (threads < 1 || threads > THREADS_MAX) {
        fprintf(stderr, "usage: fma THREADS avx2|avx512\n");
        return 2;
    }
    if (strcmp(argv[2], "avx512") == 0 && __builtin_cpu_supports("avx512f")) {
        kernel = avx512, lanes = 16;
    } else if (strcmp(argv[2], "avx2") == 0 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        kernel = avx2, lanes = 8;
    } else {
        fprintf(stderr, "fma: this machine has no %s\n", argv[2]);
        return 1;
    }
    pthread_t workers[THREADS_MAX];
    double sum = 0;
    for (int i = 0; i < threads; i++) {
        if (pthread_create(&workers[i], NULL, measure, &rates[i]) != 0) return 1;
    }
    for (int i = 0; i < threads; i++) {
        pthread_join(workers[i], NULL);
        sum += rates[i];
    }
    printf("%.1f\n", sum);
    return 0;
}
