/* A GRU's walk through a batch of contexts, and the products around it, on one or more threads.
 *
 * What costs is reading the weights. A step of one context multiplies a vector by a matrix, and the
 * matrix has to come out of the cache each time. So weights that are bfloat16 numbers stay bfloat16, in
 * half of float32's bytes; every thread owns the same tiles of columns in all steps of a layer, so
 * that its part of the matrix stays in its own cache; and what does not depend on the last step, the
 * product with the layer's input, is made for many steps at once, where a weight that was read
 * serves four rows. All arithmetic is float32: the answers are those of a float32 engine. Where the
 * processor has products of bfloat16 numbers, a layer's may be those, if it was packed for them: dots.h.
 *
 * A batch is ragged, not padded: contexts are sorted by length, longest first, and stand step after
 * step, as in torch's PackedSequence. Step t has counts[t] rows; a row keeps its place in every step.
 *
 *     step 0: a0 b0 c0   step 1: a1 b1 c1   step 2: a2 b2   step 3: a3
 *
 * The columns of a layer's matrices are ordered in tiles of 32 units: their 32 reset gates, 32
 * update gates and 32 candidates. So a tile's product holds all that its units' new states need:
 *
 *     r = sigmoid(in_r + U_r h + c_r)    z = sigmoid(in_z + U_z h + c_z)
 *     n = tanh(in_n + r (U_n h + c_n))   h' = n + z (h - n)               (torch.nn.GRU's)
 *
 * Plain C with GCC's and Clang's vector extensions, so it runs wherever they do; dots.h alone names
 * instructions.
 */

#include <math.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__) /* 32 registers */
#define LANES 16         /* of a vector */
#define ROWS 4           /* at once: 24 vectors of sums */
#elif defined(__AVX2__)  /* 16 registers */
#define LANES 8
#define ROWS 1 /* 12 vectors of sums */
#else          /* 32 registers on 64-bit ARM */
#define LANES 4
#define ROWS 1 /* 24 vectors of sums */
#endif
#define UNITS 32               /* of a tile */
#define TILE (3 * UNITS)       /* columns */
#define VECTORS (TILE / LANES) /* of a tile */
#define GATE (UNITS / LANES)   /* vectors of a tile's gate */
#define BLOCK 128  /* rows whose input products are made at once: 0.8 MB, which a cache holds */
#define SPINS 4096 /* looks at the others before a thread lets another one run */

typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t whole __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint32_t words __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

/* bfloat16: a word holds a column of vector 2j in its low half and one of 2j+1 in its high half. A
 * bfloat16 is the upper half of a float32, so one shift and one mask make floats of both. */
#define PRODUCT product_bfloat16
#define WORDS (TILE / 2)
#define READ_PAIR(at, j, low, high)              \
    do {                                         \
        const words both = ((const words *)(at))[j]; \
        low = (lanes)(both << 16);               \
        high = (lanes)(both & 0xffff0000u);      \
    } while (0)
#include "product.h"
#undef PRODUCT
#undef WORDS
#undef READ_PAIR

#define PRODUCT product_float32
#define WORDS TILE
#define READ_PAIR(at, j, low, high)            \
    do {                                       \
        low = ((const lanes *)(at))[2 * (j)];      \
        high = ((const lanes *)(at))[2 * (j) + 1]; \
    } while (0)
#include "product.h"

#ifdef __AVX512BF16__
#include "dots.h"
#endif

/* A matrix [columns, depth] as the engine packs it: tiles of [depth][96] bfloat16 or float32; a
 * product is multiplied by its column's scale, then its bias is added. */
typedef struct {
    const uint32_t *weights;
    const float *scales, *biases; /* [tiles * 96] */
    int32_t depth, tiles, kind;
} matrix;

/* A matrix's kind, as packing.py numbers them: pairs of columns in bfloat16; float32; pairs of
 * depths, whose products are bfloat16's, and those whose candidates' are made of the rest too. */
enum { COLUMN_PAIRS, WHOLE, DEPTH_PAIRS, FINE_DEPTH_PAIRS };

/* Where threads meet. `stop` is set from outside, at any time; `over`: they have seen it. */
typedef struct {
    atomic_uint arrived, phase, stop, over;
} meeting;

/* Whoever comes last looks whether to stop, so that all of them do, or none. */
static void look(meeting *at)
{
    if (atomic_load_explicit(&at->stop, memory_order_relaxed))
        atomic_store_explicit(&at->over, 1, memory_order_relaxed);
}

/* Wait until all `parts` threads are here; return whether to stop. */
static int meet(meeting *at, unsigned parts)
{
    unsigned phase = atomic_load_explicit(&at->phase, memory_order_relaxed);
    if (parts == 1) {
        look(at);
        return atomic_load_explicit(&at->over, memory_order_relaxed);
    }
    if (atomic_fetch_add_explicit(&at->arrived, 1, memory_order_acq_rel) + 1 == parts) {
        look(at);
        atomic_store_explicit(&at->arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&at->phase, phase + 1, memory_order_release);
        return atomic_load_explicit(&at->over, memory_order_relaxed);
    }
    for (unsigned spins = 0; atomic_load_explicit(&at->phase, memory_order_acquire) == phase;)
        if (++spins > SPINS)
            sched_yield();
#if defined(__x86_64__)
        else
            __builtin_ia32_pause();
#endif
    return atomic_load_explicit(&at->over, memory_order_relaxed);
}

static inline lanes pick(whole where, lanes yes, lanes no)
{
    return (lanes)((where & (whole)yes) | (~where & (whole)no));
}

/* e^x to 2 ulp where -87 <= x <= 88, and the border's value beyond; not a number stays so.
 * Cody and Waite's reduction by ln 2, then the polynomial of Cephes' expf. */
static inline lanes exponential(lanes x)
{
    x = pick(x < -87.0f, (lanes){0} - 87.0f, x);
    x = pick(x > 88.0f, (lanes){0} + 88.0f, x);
    const float shift = 12582912.0f; /* 1.5 * 2^23: adding it rounds to a whole number */
    lanes shifted = x * 1.44269504088896341f + shift;
    lanes power = shifted - shift;
    lanes rest = x - power * 0.693359375f + power * 2.12194440e-4f;
    lanes sum = rest * 1.9875691500e-4f + 1.3981999507e-3f;
    sum = sum * rest + 8.3334519073e-3f;
    sum = sum * rest + 4.1665795894e-2f;
    sum = sum * rest + 1.6666665459e-1f;
    sum = sum * rest + 5.0000001201e-1f;
    sum = sum * rest * rest + rest + 1.0f;
    whole exponent = ((whole)shifted - 0x4b400000 + 127) << 23;
    return sum * (lanes)exponent;
}

static inline lanes sigmoid(lanes x)
{
    return 1.0f / (1.0f + exponential(-x));
}

static inline lanes hyperbolic_tangent(lanes x)
{
    return 1.0f - 2.0f / (1.0f + exponential(2.0f * x));
}

static inline __attribute__((always_inline)) void multiply_rows(
    const matrix *by, int tile, const float *const rows[], int count, float *out, long stride)
{
    lanes sums[ROWS][VECTORS];
    const long begin = (long)tile * by->depth * TILE;
    switch (by->kind) {
#ifdef __AVX512BF16__
    case DEPTH_PAIRS:
        product_dots(rows, count, by->depth, VECTORS, by->weights + begin / 2, sums);
        break;
    case FINE_DEPTH_PAIRS:
        product_dots(rows, count, by->depth, 2 * GATE, by->weights + begin / 2, sums);
        break;
#endif
    case WHOLE:
        product_float32(rows, count, by->depth, by->weights + begin, sums);
        break;
    default:
        product_bfloat16(rows, count, by->depth, by->weights + begin / 2, sums);
    }
    const lanes *scales = (const lanes *)(by->scales + (long)tile * TILE);
    const lanes *biases = (const lanes *)(by->biases + (long)tile * TILE);
    for (int row = 0; row < count; row++)
        for (int v = 0; v < VECTORS; v++)
            ((lanes *)(out + row * stride))[v] = sums[row][v] * scales[v] + biases[v];
}

/* Multiply `count` rows, at most ROWS, with a tile: out [count][stride], 96 of each row.
 *
 * The compiler unrolls each count's own loop. A function of its own, because what is kept in
 * registers around it would push the sums out of them.
 */
static __attribute__((noinline)) void multiply_block(const matrix *by, int tile,
                                                     const float *const rows[], int count,
                                                     float *out, long stride)
{
    switch (count) {
#if ROWS == 4
    case 4: multiply_rows(by, tile, rows, 4, out, stride); break;
    case 3: multiply_rows(by, tile, rows, 3, out, stride); break;
    case 2: multiply_rows(by, tile, rows, 2, out, stride); break;
#endif
    default: multiply_rows(by, tile, rows, 1, out, stride);
    }
}

/* Point `from` at the next block's rows, from `row` on; return how many they are. */
static inline int block_from(const float *in, long stride, int row, int rows, const float *from[])
{
    const int count = rows - row < ROWS ? rows - row : ROWS;
    for (int i = 0; i < count; i++)
        from[i] = in + (row + i) * stride;
    return count;
}

static void multiply_tile(const matrix *by, int tile, const float *in, long stride, int rows,
                          float *out, long out_stride)
{
    for (int row = 0; row < rows; row += ROWS) {
        const float *from[ROWS];
        const int count = block_from(in, stride, row, rows, from);
        multiply_block(by, tile, from, count, out + row * out_stride + (long)tile * TILE,
                       out_stride);
    }
}

/* Give the rows as the matrix's products take them: split in two in `room`, or as they are. */
static const float *as_taken(const matrix *by, const float *rows, long count, float *room)
{
#ifdef __AVX512BF16__
    if (by->kind >= DEPTH_PAIRS) {
        for (long row = 0; row < count; row++)
            split_row(rows + row * by->depth, by->depth, (uint32_t *)(room + row * by->depth));
        return room;
    }
#endif
    (void)by, (void)count, (void)room;
    return rows;
}

/* Write the new states of a tile's units for the rows of one step; `taken`: as_taken(before). */
static void step_tile(const matrix *over, int tile, const float *inputs, const float *before,
                      const float *taken, int rows, float *after)
{
    const long hidden = over->depth, gates = 3 * hidden;
    lanes sums[ROWS][VECTORS];
    for (int row = 0; row < rows; row += ROWS) {
        const float *from[ROWS];
        const int count = block_from(taken, hidden, row, rows, from);
        multiply_block(over, tile, from, count, (float *)sums, TILE);
        for (int i = 0; i < count; i++) {
            const lanes *in = (const lanes *)(inputs + (row + i) * gates + (long)tile * TILE);
            const lanes *old = (const lanes *)(before + (row + i) * hidden + (long)tile * UNITS);
            lanes *new = (lanes *)(after + (row + i) * hidden + (long)tile * UNITS);
            for (int v = 0; v < GATE; v++) {
                const int z = GATE + v, n = 2 * GATE + v;
                lanes reset = sigmoid(in[v] + sums[i][v]);
                lanes update = sigmoid(in[z] + sums[i][z]);
                lanes fresh = hyperbolic_tangent(in[n] + reset * sums[i][n]);
                new[v] = fresh + update * (old[v] - fresh);
            }
        }
    }
}

/* One thread's part, of `parts`, in one layer.
 *
 * in [N][into->depth], out [N][hidden]: the packed rows of `steps` steps; start [counts[0]][hidden];
 * room [room_rows][3 hidden], where room_rows = BLOCK + counts[0], and own [room_rows][the widest
 * depth], the thread's own. All threads call it with the same arguments but `own` and `part`; each
 * returns when the layer is done, 0; or 1, when all were told to stop.
 */
static int walk_layer(const matrix *into, const matrix *over, const float *in, const float *start,
                       const int32_t *counts, int steps, float *out, float *room, float *own,
                       int part, int parts, meeting *at)
{
    const long hidden = over->depth, gates = 3 * hidden;
    const int first = over->tiles * part / parts, end = over->tiles * (part + 1) / parts;
    const float *before = start;
    long done = 0; /* rows of the steps before */
    for (int step = 0; step < steps;) {
        int until = step, rows = 0;
        while (until < steps && (rows == 0 || rows + counts[until] <= BLOCK))
            rows += counts[until++];
        const float *block = as_taken(into, in + done * into->depth, rows, own);
        for (int tile = first; tile < end; tile++)
            multiply_tile(into, tile, block, into->depth, rows, room, gates);
        const float *inputs = room;
        for (; step < until; step++) {
            float *after = out + done * hidden;
            const float *taken = as_taken(over, before, counts[step], own);
            for (int tile = first; tile < end; tile++)
                step_tile(over, tile, inputs, before, taken, counts[step], after);
            if (meet(at, parts))
                return 1;
            before = after;
            done += counts[step];
            inputs += counts[step] * gates;
        }
    }
    return 0;
}

/* Read a batch through all layers. `outs` [2][N][hidden]: layers write into them in turn; the last
 * layer's states are in outs[(layers - 1) % 2]. `starts` and `ends` [layers][counts[0]][hidden].
 * `last` [counts[0]]: the packed row at which each context ends. Told to stop, it leaves no answer,
 * and at->over is 1. */
void gru_walk(const matrix *into, const matrix *over, int layers, const float *in,
              const float *starts, const int32_t *counts, int steps, const int32_t *last,
              float *outs, float *room, float *ends, int part, int parts, meeting *at)
{
    const long hidden = over->depth, batch = counts[0];
    long rows = 0;
    for (int step = 0; step < steps; step++)
        rows += counts[step];
    float *own = room + (BLOCK + batch) * (3 * hidden + part * (long)into->depth);
    for (int layer = 0; layer < layers; layer++) {
        float *out = outs + (layer % 2) * rows * hidden;
        if (walk_layer(into + layer, over + layer, in, starts + layer * batch * hidden, counts,
                       steps, out, room, own, part, parts, at))
            return;
        for (long row = part; row < batch; row += parts)
            memcpy(ends + (layer * batch + row) * hidden, out + last[row] * hidden,
                   hidden * sizeof(float));
        in = out;
    }
}

/* Columns of a vector: word i of a bfloat16 pair j holds columns 2j * lanes + i and lanes more. */
int lanes_of_a_vector(void)
{
    return LANES;
}

/* Rows whose input products are made at once: what gru_walk's room must hold besides a step's. */
int rows_of_a_block(void)
{
    return BLOCK;
}

/* out [rows][tiles * 96] = in [rows][depth] times the matrix, plus its biases. */
void linear(const matrix *by, const float *in, int rows, float *out)
{
    for (int tile = 0; tile < by->tiles; tile++)
        multiply_tile(by, tile, in, by->depth, rows, out, (long)by->tiles * TILE);
}

/* torch.nn.LayerNorm over rows of `width`: out = (in - mean) / sqrt(variance + 1e-5) * gain + bias.
 * Sums stand in PARTS doubles side by side, which the compiler makes vectors of; PARTS divides
 * `width`. */
#define PARTS 16
void layer_norm(const float *in, long rows, int width, const float *gain, const float *bias,
                float *out)
{
    for (long row = 0; row < rows; row++, in += width, out += width) {
        double sums[PARTS] = {0}, squares[PARTS] = {0}, sum = 0, square = 0;
        for (int i = 0; i < width; i += PARTS)
            for (int j = 0; j < PARTS; j++)
                sums[j] += in[i + j];
        for (int j = 0; j < PARTS; j++)
            sum += sums[j];
        const float mean = (float)(sum / width);
        for (int i = 0; i < width; i += PARTS)
            for (int j = 0; j < PARTS; j++)
                squares[j] += (double)(in[i + j] - mean) * (in[i + j] - mean);
        for (int j = 0; j < PARTS; j++)
            square += squares[j];
        const float shrink = (float)(1.0 / sqrt(square / width + 1e-5));
        for (int i = 0; i < width; i++)
            out[i] = (in[i] - mean) * shrink * gain[i] + bias[i];
    }
}

/* torch.nn.GELU, in place: x (1 + erf(x / sqrt(2))) / 2. */
void gelu(float *values, long count)
{
    for (long i = 0; i < count; i++)
        values[i] *= 0.5f * (1.0f + erff(values[i] * 0.70710678118654752f));
}

#include "half.h"
