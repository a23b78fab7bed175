/* Keyed fingerprints of vectors: NH, the universal hash of UMAC (Black, Halevi, Krawczyk, Krovetz and
 * Rogaway, CRYPTO 1999; RFC 4418, section 5.2), four times with keys of their own.
 *
 *     NH(m) = sum over i of (m[i] + k[i] mod 2^32) (m[i + HALF] + k[i + HALF] mod 2^32)  mod 2^64
 *
 * Two vectors that differ in any bit have the same NH for one key in 2^32 at most, so the same four
 * words for one in 2^128: who does not know the keys cannot find such a pair but by chance.
 *
 * UMAC pairs words that lie four apart, here they lie half a vector apart: a compiler then needs no
 * shuffles. Which words are pairs is of no account to the proof.
 */

#include <stdint.h>

#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__)
#define EACH_LEVEL __attribute__((target_clones("avx2", "default")))
#else
#define EACH_LEVEL
#endif

#define WORDS 768 /* of a vector: float32 by their bits */
#define HALF (WORDS / 2)
#define KEYS 4
#define PART 16 /* words of a cache line */

/* vectors [rows, WORDS], keys [KEYS, WORDS], fingerprints [rows, KEYS] */
EACH_LEVEL void fingerprint(const uint32_t *vectors, long rows, const uint32_t *keys,
                            uint64_t *fingerprints)
{
    for (long row = 0; row < rows; row++) {
        const uint32_t *m = vectors + row * WORDS;
        uint64_t sums[KEYS] = {0};
        /* A context that was received a while ago is in no cache. Fetching beyond its end hurts nobody. */
        for (int part = 0; part < HALF; part += PART) {
            __builtin_prefetch(m + WORDS + part);
            __builtin_prefetch(m + WORDS + HALF + part);
            for (int i = part; i < part + PART; i++)
                for (int key = 0; key < KEYS; key++) {
                    const uint32_t *k = keys + key * WORDS;
                    sums[key] += (uint64_t)(m[i] + k[i]) * (uint32_t)(m[i + HALF] + k[i + HALF]);
                }
        }
        for (int key = 0; key < KEYS; key++)
            fingerprints[row * KEYS + key] = sums[key];
    }
}
