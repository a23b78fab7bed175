/* Inner products of rows kept as float16 with a few vectors: a bank's search for a whole batch.
 *
 *     rows [count][width] float16   vectors [queries][width]   out [queries][stride]
 *
 * What costs is reading the rows and widening them to float32, so each that was read and widened
 * serves up to four vectors, and a block of rows serves all of them while the cache holds it. Sums
 * are float32's. `width` is a multiple of the lanes. Where the processor does not widen float16 by
 * itself, there is no such function.
 */

#if defined(__AVX512F__) || defined(__F16C__)
#include <immintrin.h>

#define QUERIES 4 /* at once */
#if defined(__AVX512F__)
#define HALF_ROWS 4 /* at once: 16 vectors of sums */
#else
#define HALF_ROWS 2
#endif
#define NEAR 128    /* rows that the cache keeps for all vectors: 0.2 MB */

static inline lanes widened(const uint16_t *at)
{
#if defined(__AVX512F__)
    return (lanes)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)at));
#else
    return (lanes)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)at));
#endif
}

static inline float total(lanes sums)
{
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)sums);
#else
    const __m128 both = _mm_add_ps(_mm256_castps256_ps128((__m256)sums),
                                   _mm256_extractf128_ps((__m256)sums, 1));
    const __m128 pair = _mm_add_ps(both, _mm_movehl_ps(both, both));
    return _mm_cvtss_f32(_mm_add_ss(pair, _mm_movehdup_ps(pair)));
#endif
}

static inline __attribute__((always_inline)) void half_block(
    const uint16_t *from, int rows, const float *vectors, int queries, int width, float *out,
    long stride)
{
    lanes sums[HALF_ROWS][QUERIES] = {0};
    for (int k = 0; k < width; k += LANES) {
        lanes wide[HALF_ROWS];
        for (int row = 0; row < rows; row++)
            wide[row] = widened(from + (long)row * width + k);
        for (int query = 0; query < queries; query++) {
            const lanes vector = *(const lanes *)(vectors + (long)query * width + k);
            for (int row = 0; row < rows; row++)
                sums[row][query] += wide[row] * vector;
        }
    }
    for (int row = 0; row < rows; row++)
        for (int query = 0; query < queries; query++)
            out[query * stride + row] = total(sums[row][query]);
}

static __attribute__((noinline)) void half_rows(const uint16_t *from, long rows,
                                                const float *vectors, int queries, int width,
                                                float *out, long stride)
{
#define PAIRS(count)                                                                            \
    for (; row + HALF_ROWS <= rows; row += HALF_ROWS)                                           \
        half_block(from + row * width, HALF_ROWS, vectors, count, width, out + row, stride);    \
    for (; row < rows; row++)                                                                   \
        half_block(from + row * width, 1, vectors, count, width, out + row, stride)
    long row = 0;
    switch (queries) {
    case 4: PAIRS(4); break;
    case 3: PAIRS(3); break;
    case 2: PAIRS(2); break;
    default: PAIRS(1);
    }
#undef PAIRS
}

void half_products(const uint16_t *rows, long count, int width, const float *vectors, int queries,
                   float *out, long stride)
{
    for (long row = 0; row < count; row += NEAR) {
        const long near = count - row < NEAR ? count - row : NEAR;
        for (int query = 0; query < queries; query += QUERIES) {
            const int some = queries - query < QUERIES ? queries - query : QUERIES;
            half_rows(rows + row * width, near, vectors + (long)query * width, some, width,
                      out + query * stride + row, stride);
        }
    }
}
#endif
