/* Runs the kernel and the scorer on any bytes, for sanitizers and for libFuzzer.
 *
 * The first four bytes choose the grams, the rest are texts that end at 0xFF. Each text is copied to memory of exactly
 * its size, so that a read outside of it is found; what comes out is held to what the kernel promises.
 *
 * With -DSTANDALONE there is a `main` that needs no fuzzer: it runs the files that are given, then so many random
 * changes of them. TABLE is the path of code_points.bin. */

#define SCORER_CORE_ONLY
#include "../../src/mobile_sentiment_ops/models/_scorer.c"

#include <stdio.h>

#define HOLD(promise) ((promise) ? (void)0 : (fprintf(stderr, "broken: %s\n", #promise), abort()))

static void read_table(void)
{
    static uint8_t file[1 << 20];
    static uint16_t blocks[BLOCKS], all[1 << 16];
    static uint32_t sizes[2], points[1 << 16];
    FILE *stream = fopen(TABLE, "rb");
    HOLD(stream);
    const size_t size = fread(file, 1, sizeof file, stream);
    fclose(stream);
    memcpy(blocks, file + 32, sizeof blocks);
    memcpy(sizes, file + 32 + sizeof blocks, sizeof sizes);
    const size_t begin = 32 + sizeof blocks + sizeof sizes, middle = begin + 2 * BLOCK * (size_t)sizes[0];
    HOLD(size == middle + 4 * (size_t)sizes[1]);
    memcpy(all, file + begin, middle - begin);
    memcpy(points, file + middle, size - middle);
    points[sizes[1] - 1] ^= 1u << 31;
    HOLD(!load_table(blocks, BLOCKS, all, BLOCK * (size_t)sizes[0], points, sizes[1])); /* the last sequence has no end */
    points[sizes[1] - 1] ^= 1u << 31;
    HOLD(!load_table(blocks, BLOCKS, all, BLOCK * (size_t)sizes[0] - 1, points, sizes[1]));
    HOLD(!load_table(blocks, BLOCKS, all, BLOCK * (size_t)sizes[0], points, 1));
    HOLD(load_table(blocks, BLOCKS, all, BLOCK * (size_t)sizes[0], points, sizes[1]));
}

static void weigh_found(Rows found, size_t count, size_t size, uint8_t seed)
{
    enum { BUCKETS = 1024, FEATURES = 7 };
    int32_t columns[BUCKETS];
    const float weights[FEATURES] = {1, 2, 0.5f, 0, 1, 1, 3};
    for (int i = 0; i < BUCKETS; i++)
        columns[i] = (i * 7 + seed) % (FEATURES + 3) - 1; /* some have none, some one too far */
    Rows to = {malloc((count + 1) * 8), malloc(size * 4 + 1), malloc(size * 4 + 1)};
    HOLD(weigh(found, count, size, columns, BUCKETS, weights, FEATURES, to));
    for (int64_t at = 0; at < to.starts[count]; at++)
        HOLD(to.numbers[at] >= 0 && to.numbers[at] < FEATURES);
    if (count) { /* starts that lie are refused */
        found.starts[count] = seed % 2 ? (int64_t)size + 1 : -1;
        HOLD(!weigh(found, count, size, columns, BUCKETS, weights, FEATURES, to));
    }
    free(to.starts), free(to.numbers), free(to.values);
}

static uint32_t spread(uint32_t number)
{
    return finish(step(WORDS_SEED, number));
}

/* Memory of exactly this size, so that a read outside of it is found. */
static void *part_of(size_t count, size_t size)
{
    void *at = calloc(count * size + !count, 1);
    HOLD(at);
    return at;
}

/* Score with a small model, in which some numbers are replaced: it is refused, or answers with probabilities. */
static void score_with(const uint8_t *data, size_t size, const Text *texts, size_t count, Grams grams)
{
    enum { NODES = 31 };
    const uint32_t seed = data[0] | (uint32_t)data[1] << 8;
    grams.bits = 10 + seed % 3;
    const size_t blocks = (size_t)1 << grams.bits >> 5;
    Block32 *block = part_of(blocks, sizeof *block);
    uint32_t columns = 0;
    for (uint32_t i = 0; i < blocks; columns += bits_of(block[i++].kept))
        block[i] = (Block32){spread(seed + i) & spread(i), columns};
    float (*rows)[4] = part_of(columns, sizeof *rows);
    for (uint32_t i = 0; i < 4 * columns; i++)
        ((float *)rows)[i] = (float)(spread(i) % 2000) / 500 - 2;
    Node *nodes = part_of(NODES, sizeof *nodes);
    for (int32_t i = 0; i < NODES; i++) { /* a full tree */
        const int leaf = 2 * i + 2 >= NODES;
        nodes[i] = (Node){(float)(i % 5), leaf ? i : 2 * i + 1, leaf ? i : 2 * i + 2, spread((uint32_t)i) % columns};
        nodes[i].column |= leaf || i % 3 ? 0 : ELSEWHERE;
    }
    Tree *trees = part_of(3, sizeof *trees);
    double (*mix)[3] = part_of(3, sizeof *mix), *bias = part_of(3, sizeof *bias), *favour = part_of(3, sizeof *favour);
    for (int i = 0; i < 3; i++)
        trees[i] = (Tree){i, i}, mix[i][i] = favour[i] = 1;
    uint32_t *const parts[] = {(uint32_t *)block, (uint32_t *)rows,  (uint32_t *)nodes, (uint32_t *)trees,
                               (uint32_t *)mix,   (uint32_t *)bias, (uint32_t *)favour};
    const size_t sizes[] = {2 * blocks, 4 * columns, 4 * NODES, 6, 18, 6, 6};
    for (size_t at = 4; at + 7 <= size && at < 4 + 7 * (size_t)(data[2] % 4); at += 7) {
        const size_t place = (data[at + 1] | (size_t)data[at + 2] << 8) % sizes[data[at] % 7];
        memcpy(parts[data[at] % 7] + place, data + at + 3, 4);
    }
    for (int grown = 0; grown < 2; grown++) {
        const Model model = {grams, block, columns, grown ? NULL : rows, nodes, NODES, trees, 3, mix, bias, favour};
        if (fault_of(&model)) {
            HOLD(data[2] % 4);
            continue;
        }
        Scratch scratch = scratch_for(&model);
        for (size_t i = 0; i < count; i++) {
            uint8_t label = 9;
            double found[3];
            const int failed = score(&model, &scratch, texts[i], &label, found);
            HOLD(failed == OK || failed == NOT_UTF8);
            HOLD(failed || (label < 3 && fabs(found[0] + found[1] + found[2] - 1) < 1e-9));
            HOLD(failed || (found[0] > 0 && found[1] > 0 && found[2] > 0));
            char row[LONGEST_ROW + 1 + 3], *end = failed ? row : render(row, &label, &found, 1, "abc", 3, UINT64_MAX);
            HOLD(end && end < row + sizeof row);
        }
        end_scratch(&scratch);
    }
    free(block), free(rows), free(nodes), free(trees), free(mix), free(bias), free(favour);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!entries)
        read_table();
    if (size < 4)
        return 0;
    const int longest = data[1] % 7, shortest = longest ? 1 + data[2] % longest : 0;
    const Grams grams = {1 + data[0] % 3, shortest, longest, 10 + data[3] % 15};
    Text texts[64];
    size_t count = 0;
    for (const uint8_t *at = data + 4, *end = data + size; at <= end && count < 64; count++) {
        const uint8_t *stop = at < end ? memchr(at, 0xFF, (size_t)(end - at)) : NULL;
        texts[count].size = (size_t)((stop ? stop : end) - at);
        uint8_t *copy = malloc(texts[count].size + !texts[count].size);
        memcpy(copy, at, texts[count].size);
        texts[count].at = copy;
        at = stop ? stop + 1 : end + 1;
    }
    size_t room = data[3] & 1 ? 8 : 1 << 12, row = 0; /* too little room is the caller's to mend */
    Rows found = {calloc(count + 1, 8), malloc(room * 4), malloc(room * 4)};
    int failed;
    while (!(failed = count_texts(texts, count, grams, found, room, &row)) && row < count) {
        room *= 2;
        found.numbers = realloc(found.numbers, room * 4), found.values = realloc(found.values, room * 4);
    }
    HOLD(failed == OK || failed == NOT_UTF8);
    for (size_t text = 0; text < row; text++)
        for (int64_t at = found.starts[text]; at < found.starts[text + 1]; at++) {
            HOLD(found.numbers[at] >= 0 && found.numbers[at] < 1 << grams.bits && found.values[at] >= 1);
            HOLD(at == found.starts[text] || found.numbers[at] > found.numbers[at - 1]);
        }
    weigh_found(found, row, (size_t)found.starts[row], data[2]);
    score_with(data, size, texts, count, grams);
    for (size_t text = 0; text < count; text++) {
        Scanner alone = {.traced = 1};
        HOLD(scan(&alone, texts[text].at, texts[text].size) != NO_MEMORY);
        end_scanner(&alone), free((void *)texts[text].at);
    }
    free(found.starts), free(found.numbers), free(found.values);
    return 0;
}

#ifdef STANDALONE
static uint64_t state = 1;

static size_t chance(size_t below)
{
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return (size_t)(state % below);
}

int main(int count, char **arguments)
{
    enum { MOST = 4096 };
    static uint8_t seeds[64][MOST];
    static size_t sizes[64];
    const long changes = strtol(arguments[1], NULL, 10);
    for (int i = 2; i < count && i < 64; i++) {
        FILE *stream = fopen(arguments[i], "rb");
        HOLD(stream);
        sizes[i] = fread(seeds[i], 1, MOST / 2, stream);
        fclose(stream);
        LLVMFuzzerTestOneInput(seeds[i], sizes[i]);
    }
    for (long change = 0; change < changes && count > 2; change++) {
        uint8_t made[MOST];
        const size_t from = 2 + chance((size_t)count - 2), other = 2 + chance((size_t)count - 2);
        size_t size = sizes[from];
        memcpy(made, seeds[from], size);
        for (size_t times = 1 + chance(8); times-- && size;)
            switch (chance(4)) {
            case 0: made[chance(size)] = (uint8_t)chance(256); break;
            case 1: made[chance(size)] ^= (uint8_t)(1 << chance(8)); break;
            case 2: size = chance(size) + 1; break;
            case 3: { /* a piece of another one in between */
                const size_t at = chance(size), piece = chance(sizes[other] ? sizes[other] : 1);
                if (size + piece <= MOST) {
                    memmove(made + at + piece, made + at, size - at);
                    memcpy(made + at, seeds[other], piece);
                    size += piece;
                }
            }
            }
        LLVMFuzzerTestOneInput(made, size);
    }
    printf("ran %d files and %ld changes\n", count - 2, changes);
    return 0;
}
#endif
