/* Products in bfloat16, where the processor multiplies and adds pairs of them (AVX512_BF16).
 *
 * A word holds a pair: the number at an even depth in its low half, the next depth's in its high
 * half. One VDPBF16PS adds two products to each of 16 float32 sums, exactly but for the rounding of
 * the sums; so what is lost is what rounding the factors to bfloat16's 8 bits loses.
 *
 * A row stands as its bfloat16 numbers (depth/2 words), and behind these what rounding to them left
 * (the rest, as many words). A product with the rest costs as much again. So it is made only for the
 * columns from `fine` on, and those are the candidates of a layer's input: what is lost there goes
 * into the state as it is, while the gates' sigmoids take off three quarters of it at least, and what
 * a state loses on its way to the next step is small beside what it keeps.
 *
 *     weights [depth/2][96] pairs   sums [rows][96] = sum over k of row[k] * weights[k][96]
 */

#include <immintrin.h>

/* Write `count` floats as pairs of bfloat16, and what that left of them behind. 32 divides `count`. */
static void split_row(const float *in, long count, uint32_t *out)
{
    for (long i = 0; i < count; i += 32, in += 32, out += 16) {
        const __m512 low = _mm512_loadu_ps(in), high = _mm512_loadu_ps(in + 16);
        const __m512i pairs = (__m512i)_mm512_cvtne2ps_pbh(high, low);
        const __m512i first = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(pairs));
        const __m512i second = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(pairs, 1));
        const __m512 low_rest = low - (__m512)_mm512_slli_epi32(first, 16);
        const __m512 high_rest = high - (__m512)_mm512_slli_epi32(second, 16);
        _mm512_storeu_si512(out, pairs);
        _mm512_storeu_si512(out + count / 2, (__m512i)_mm512_cvtne2ps_pbh(high_rest, low_rest));
    }
}

static inline __attribute__((always_inline)) lanes dot(lanes sum, __m512i weights, uint32_t pair)
{
    return (lanes)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32((int)pair),
                                   (__m512bh)weights);
}

static inline __attribute__((always_inline)) void product_dots(
    const float *const rows[], int count, int depth, int fine, const uint32_t *restrict weights,
    lanes sums[][VECTORS])
{
    lanes kept[ROWS][VECTORS] = {0};
    const long pairs = depth / 2;
    const uint32_t *coarse[ROWS];
    for (int row = 0; row < count; row++)
        coarse[row] = (const uint32_t *)rows[row];
    for (long k = 0; k < pairs; k++, weights += TILE)
        for (int v = 0; v < VECTORS; v++) {
            const __m512i column = _mm512_loadu_si512(weights + v * LANES);
            for (int row = 0; row < count; row++) {
                kept[row][v] = dot(kept[row][v], column, coarse[row][k]);
                if (v >= fine)
                    kept[row][v] = dot(kept[row][v], column, coarse[row][pairs + k]);
            }
        }
    for (int row = 0; row < count; row++)
        for (int v = 0; v < VECTORS; v++)
            sums[row][v] = kept[row][v];
}
