/* The product of a few rows with one tile of a packed matrix: 96 columns.
 *
 *     weights [depth][96]         sums [rows][96] = sum over k of rows[row][k] * weights[k][96]
 *
 * Included by gru.c once for each type of weight, with PRODUCT (the function's name), WORDS (32-bit
 * words of a tile's row), and READ_PAIR(at, j, low, high), which reads vectors 2j and 2j+1.
 */

static inline __attribute__((always_inline)) void PRODUCT(
    const float *restrict const rows[], int count, int depth, const uint32_t *restrict weights,
    lanes sums[][VECTORS])
{
    lanes kept[ROWS][VECTORS] = {0}; /* a local, which no other pointer can reach: in registers */
    for (int k = 0; k < depth; k++, weights += WORDS)
        for (int pair = 0; pair < VECTORS / 2; pair++) {
            lanes low, high;
            READ_PAIR(weights, pair, low, high);
            for (int row = 0; row < count; row++) {
                kept[row][2 * pair] += rows[row][k] * low;
                kept[row][2 * pair + 1] += rows[row][k] * high;
            }
        }
    for (int row = 0; row < count; row++)
        for (int v = 0; v < VECTORS; v++)
            sums[row][v] = kept[row][v];
}
