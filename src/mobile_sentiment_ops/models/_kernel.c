/* From UTF-8 to counted and weighed features: what reference.py says in Python, some thousand times faster.
 *
 *     table      code points -> classes and folded code points, checked once when it is loaded
 *     scanner    bytes -> folded code points -> tokens -> hashes of runs of tokens and of characters
 *     counting   hashes of a text -> rising buckets with counts
 *     weighing   buckets -> columns with weights, each text of length 1
 *     module     the door to Python; what is above knows no Python (KERNEL_CORE_ONLY leaves it out) and is fuzzed
 *
 * Nothing outside of what is given is read, whatever it holds. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, NO_MEMORY = 1, NOT_UTF8 = 2 };

/* --- table: docs/code_points.py tells its shape */

enum { SEPARATOR, DROPPED, WORD, UNSPACED, EMOJI, CLASSES };
enum { BLOCK = 64, BLOCKS = 0x110000 / BLOCK };

static const uint16_t *block_of, *entries; /* NULL until a table is loaded */
static const uint32_t *folded;
static uint32_t ascii[128]; /* the one folded code point, or SEPARATOR, or DROPPED */

static inline uint32_t entry_of(uint32_t point)
{
    return entries[block_of[point / BLOCK] * BLOCK + point % BLOCK];
}

/* Whether every number of a table stays inside of it; then it is used, and has to stay where it is. */
static int load_table(const uint16_t *of, size_t ofs, const uint16_t *new_entries, size_t count, const uint32_t *points,
                      size_t size)
{
    int sound = ofs == BLOCKS && size && points[size - 1] >> 31;
    for (size_t i = 0; sound && i < BLOCKS; i++)
        sound = ((size_t)of[i] + 1) * BLOCK <= count;
    for (size_t i = 0; sound && i < count; i++)
        sound = new_entries[i] < CLASSES + size;
    if (!sound)
        return 0;
    block_of = of, entries = new_entries, folded = points;
    for (uint32_t point = 0; point < 128; point++) {
        uint32_t entry = entry_of(point);
        ascii[point] = entry >= CLASSES ? folded[entry - CLASSES] & 0xFFFFFF : entry == WORD ? point : entry;
    }
    return 1;
}

/* --- scanner */

typedef struct {
    uint32_t *at;
    size_t size, room;
} Vector;

static int enlarge(Vector *vector)
{
    size_t room = vector->room ? 2 * vector->room : 256;
    uint32_t *at = room > SIZE_MAX / 8 ? NULL : realloc(vector->at, room * sizeof *at);
    if (!at)
        return NO_MEMORY;
    vector->at = at, vector->room = room;
    return OK;
}

static inline int push(Vector *vector, uint32_t value)
{
    if (vector->size == vector->room && enlarge(vector))
        return NO_MEMORY;
    vector->at[vector->size++] = value;
    return OK;
}

typedef struct { /* words up to so many tokens, characters from `shortest` to `longest` (0: none), 2^bits buckets */
    int words, shortest, longest, bits;
} Grams;

typedef struct {
    Grams grams;
    uint32_t family;       /* the bit that tells characters from words, or 0 when there are no characters */
    int traced;            /* whether `tokens` is wanted */
    Vector hashes, tokens; /* of the text; its tokens' code points, each token with a newline */
    int run, before;       /* the class of the open run; how many tokens came before, up to 2 */
    uint32_t hash;         /* of the open run so far */
    Vector points;         /* of the open run; not of words that need their hash alone */
    uint32_t last, pair;   /* the hashes of the last token and of the last two */
} Scanner;

static const uint32_t START = 2, END = 3; /* around the characters of a token; both are separators outside */
static const uint32_t WORDS_SEED = 0x243F6A88, CHARACTERS_SEED = 0x85A308D3;

static inline uint32_t step(uint32_t hash, uint32_t value)
{
    return ((hash << 5 | hash >> 27) ^ value) * 0x9E3779B1u;
}

static inline uint32_t finish(uint32_t hash)
{
    return (hash ^ hash >> 15) * 0xC2B2AE35u;
}

static int characters(Scanner *scanner, const uint32_t *points, size_t size)
{
    const size_t shortest = (size_t)scanner->grams.shortest, longest = (size_t)scanner->grams.longest;
    int failed = OK;
    for (size_t first = 0; first < size + 2 && !failed; first++) {
        uint32_t hash = CHARACTERS_SEED;
        for (size_t at = first; at < size + 2 && at < first + longest; at++) {
            hash = step(hash, at == 0 ? START : at > size ? END : points[at - 1]);
            if (at - first + 1 >= shortest)
                failed |= push(&scanner->hashes, finish(hash) | scanner->family);
        }
    }
    return failed;
}

/* A complete token; its code points are read only for characters and when traced. */
static int token(Scanner *scanner, const uint32_t *points, size_t size, uint32_t hash)
{
    Vector *hashes = &scanner->hashes;
    const uint32_t words = ~scanner->family, pair = finish(step(scanner->last, hash = finish(hash)));
    int failed = push(hashes, hash & words);
    if (scanner->before >= 1 && scanner->grams.words >= 2)
        failed |= push(hashes, pair & words);
    if (scanner->before >= 2 && scanner->grams.words >= 3)
        failed |= push(hashes, finish(step(scanner->pair, hash)) & words);
    scanner->last = hash, scanner->pair = pair;
    scanner->before += scanner->before < 2;
    for (size_t i = 0; scanner->traced && i <= size; i++)
        failed |= push(&scanner->tokens, i < size ? points[i] : '\n');
    return failed || (scanner->grams.longest && characters(scanner, points, size)) ? NO_MEMORY : OK;
}

static int end_run(Scanner *scanner)
{
    const uint32_t *points = scanner->points.at;
    const size_t size = scanner->points.size;
    int failed = OK, run = scanner->run;
    scanner->run = SEPARATOR;
    if (run == SEPARATOR)
        return OK;
    if (run != UNSPACED || size <= 3)
        return token(scanner, points, size, scanner->hash);
    for (size_t at = 0; at + 3 <= size && !failed; at++)
        failed = token(scanner, points + at, 3, step(step(step(WORDS_SEED, points[at]), points[at + 1]), points[at + 2]));
    return failed;
}

static inline int begin_run(Scanner *scanner, int class)
{
    int failed = end_run(scanner);
    scanner->run = class, scanner->hash = WORDS_SEED, scanner->points.size = 0;
    return failed;
}

/* The next folded code point. */
static int take(Scanner *scanner, uint32_t point, int class)
{
    if (class == DROPPED)
        return OK;
    if ((class != scanner->run || class == EMOJI) && begin_run(scanner, class))
        return NO_MEMORY;
    scanner->hash = step(scanner->hash, point);
    return class == SEPARATOR ? OK : push(&scanner->points, point);
}

/* The code point at `*at`, which moves past it; -1 when it is not UTF-8. */
static int32_t decode(const uint8_t **at, const uint8_t *end)
{
    static const int32_t least[4] = {0, 0x80, 0x800, 0x10000};
    const uint8_t *byte = *at;
    const int more = *byte < 0x80 ? 0 : *byte < 0xC2 ? 4 : *byte < 0xE0 ? 1 : *byte < 0xF0 ? 2 : *byte < 0xF5 ? 3 : 4;
    if (more > 3 || end - byte <= more)
        return -1;
    int32_t point = more ? *byte & (0x3F >> more) : *byte;
    for (int i = 1; i <= more; i++) {
        if ((byte[i] & 0xC0) != 0x80)
            return -1;
        point = point << 6 | (byte[i] & 0x3F);
    }
    *at = byte + more + 1;
    return point < least[more] || point > 0x10FFFF || (point >= 0xD800 && point < 0xE000) ? -1 : point;
}

/* The hashes of a text, in `hashes`. */
static int scan(Scanner *scanner, const uint8_t *at, size_t size)
{
    const uint8_t *const end = at + size;
    const int hash_alone = !scanner->traced && !scanner->grams.longest;
    int failed = OK;
    scanner->hashes.size = scanner->tokens.size = 0;
    scanner->run = SEPARATOR, scanner->before = 0;
    while (at < end && !failed) {
        uint32_t value;
        if (hash_alone && *at < 128 && (value = ascii[*at]) >= CLASSES) { /* most text: a word of ASCII at once */
            if (scanner->run != WORD)
                failed = begin_run(scanner, WORD);
            uint32_t hash = scanner->hash;
            do
                hash = step(hash, value);
            while (++at < end && *at < 128 && (value = ascii[*at]) >= CLASSES);
            scanner->hash = hash;
            continue;
        }
        const int32_t point = decode(&at, end);
        if (point < 0)
            return NOT_UTF8;
        const uint32_t entry = entry_of((uint32_t)point);
        if (entry < CLASSES)
            failed = take(scanner, (uint32_t)point, (int)entry);
        else {
            const uint32_t *next = folded + entry - CLASSES;
            do
                failed |= take(scanner, *next & 0xFFFFFF, (int)(*next >> 24 & 0x7F));
            while (!(*next++ >> 31));
        }
    }
    return failed || end_run(scanner) ? NO_MEMORY : OK;
}

static void end_scanner(Scanner *scanner)
{
    free(scanner->hashes.at), free(scanner->tokens.at), free(scanner->points.at);
}

/* --- counting */

/* `from` by 6 bits of its numbers into `to`, otherwise in the same order. */
static void distribute(const uint32_t *from, uint32_t *to, size_t size, int shift)
{
    size_t starts[65] = {0};
    for (size_t i = 0; i < size; i++)
        starts[(from[i] >> shift & 63) + 1]++;
    for (int i = 1; i < 64; i++)
        starts[i] += starts[i - 1];
    for (size_t i = 0; i < size; i++)
        to[starts[from[i] >> shift & 63]++] = from[i];
}

/* Where the numbers, all of their 32 bits, are in rising order: here, or in `spare` of the same size. Few are put near
 * their place by their first bits and moved there; many are distributed by all, so that none can make it slow. */
static uint32_t *sorted(uint32_t *numbers, uint32_t *spare, size_t size)
{
    if (size > 256) {
        for (int shift = 0; shift < 32; shift += 6) {
            uint32_t *from = numbers;
            distribute(from, spare, size, shift);
            numbers = spare, spare = from;
        }
        return numbers;
    }
    if (size > 8) {
        distribute(numbers, spare, size, 26);
        numbers = spare;
    }
    for (size_t i = 1; i < size; i++) {
        const uint32_t number = numbers[i];
        size_t to = i;
        for (; to && numbers[to - 1] > number; to--)
            numbers[to] = numbers[to - 1];
        numbers[to] = number;
    }
    return numbers;
}

typedef struct {
    const uint8_t *at;
    size_t size;
} Text;

typedef struct { /* of texts in turn: `ends[i]` is where the buckets of text i end */
    int64_t *ends;
    int32_t *buckets;
    float *counts;
    size_t size, room;
} Found;

static int make_room(Found *found, size_t more)
{
    if (found->room - found->size >= more)
        return OK;
    const size_t room = 2 * found->room + more + 1024;
    int32_t *buckets = realloc(found->buckets, room * sizeof *buckets);
    if (buckets)
        found->buckets = buckets;
    float *counts = realloc(found->counts, room * sizeof *counts);
    if (counts)
        found->counts = counts;
    if (!buckets || !counts)
        return NO_MEMORY;
    found->room = room;
    return OK;
}

/* The filled buckets of `count` texts; on failure `*row` is the text at which it happened. */
static int count_texts(const Text *texts, size_t count, Grams grams, Found *found, size_t *row)
{
    Scanner scanner = {.grams = grams, .family = grams.longest ? (uint32_t)1 << (32 - grams.bits) : 0};
    Vector spare = {0};
    int failed = (found->ends = malloc((count + 1) * sizeof *found->ends)) ? OK : NO_MEMORY;
    for (*row = 0; !failed && *row < count; ++*row) {
        if ((failed = scan(&scanner, texts[*row].at, texts[*row].size)))
            break;
        const size_t size = scanner.hashes.size;
        while (spare.room < size && !failed)
            failed = enlarge(&spare);
        if (failed || (failed = make_room(found, size)))
            break;
        const uint32_t *hashes = sorted(scanner.hashes.at, spare.at, size);
        const int shift = 32 - grams.bits;
        for (size_t i = 0, next; i < size; i = next) {
            for (next = i + 1; next < size && hashes[next] >> shift == hashes[i] >> shift;)
                next++;
            found->buckets[found->size] = (int32_t)(hashes[i] >> shift);
            found->counts[found->size++] = (float)(next - i);
        }
        found->ends[*row] = (int64_t)found->size;
    }
    end_scanner(&scanner), free(spare.at);
    return failed;
}

static void end_found(Found *found)
{
    free(found->ends), free(found->buckets), free(found->counts);
}

/* --- weighing */

typedef struct { /* rows between `starts`, of which there are one more */
    int64_t *starts;
    int32_t *numbers;
    float *values;
} Rows;

/* For buckets with counts, the columns of those that have one, and (1 + log(count)) * weight in rows of length 1.
 * Whether the starts rise within `size`. */
static int weigh(Rows from, size_t count, size_t size, const int32_t *columns, size_t buckets, const float *weights,
                 size_t features, Rows to)
{
    float logs[64];
    size_t at = 0, filled = 0;
    for (int i = 1; i < 64; i++)
        logs[i] = 1 + (float)log(i);
    to.starts[0] = 0;
    for (size_t row = 0; row < count; row++) {
        const int64_t end = from.starts[row + 1];
        size_t first = filled;
        double square = 0;
        if (from.starts[0] || end < (int64_t)at || end > (int64_t)size)
            return 0;
        for (; at < (size_t)end; at++) {
            const uint32_t bucket = (uint32_t)from.numbers[at];
            const uint32_t column = bucket < buckets ? (uint32_t)columns[bucket] : UINT32_MAX;
            if (column >= features)
                continue;
            const float times = from.values[at];
            const float value = (times >= 1 && times < 64 ? logs[(int)times] : 1 + (float)log(times)) * weights[column];
            to.numbers[filled] = (int32_t)column, to.values[filled++] = value;
            square += (double)value * value;
        }
        for (const double length = sqrt(square); first < filled; first++)
            to.values[first] = (float)(to.values[first] / length);
        to.starts[row + 1] = (int64_t)filled;
    }
    return 1;
}

/* --- module */

#ifndef KERNEL_CORE_ONLY
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

static PyObject *bytes_of(const void *data, size_t size)
{
    return PyBytes_FromStringAndSize(size ? data : "", (Py_ssize_t)size);
}

/* The texts of a tuple of str. */
static int texts_of_strings(PyObject *strings, Text *texts, Py_ssize_t count, Py_ssize_t first)
{
    for (Py_ssize_t row = 0; row < count; row++) {
        Py_ssize_t size;
        const char *data = PyUnicode_AsUTF8AndSize(PyTuple_GetItem(strings, row), &size);
        if (!data) {
            if (PyErr_ExceptionMatches(PyExc_UnicodeEncodeError))
                PyErr_Format(PyExc_ValueError, "text %zd holds a lone surrogate, half of a character", first + row);
            return 0;
        }
        texts[row] = (Text){(const uint8_t *)data, (size_t)size};
    }
    return 1;
}

/* The texts of `data` between pairs of places. */
static int texts_of_bounds(const Py_buffer *data, const int64_t *bounds, Text *texts, Py_ssize_t count, Py_ssize_t first)
{
    for (Py_ssize_t row = 0; row < count; row++, bounds += 2) {
        if (bounds[0] < 0 || bounds[1] < bounds[0] || bounds[1] > data->len) {
            PyErr_Format(PyExc_ValueError, "text %zd has offsets that do not rise within its data", first + row);
            return 0;
        }
        texts[row] = (Text){(const uint8_t *)data->buf + bounds[0], (size_t)(bounds[1] - bounds[0])};
    }
    return 1;
}

/* Ends, buckets and counts, as bytes, of a tuple of str, or of UTF-8 and pairs of places in it. */
static PyObject *kernel_count(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    PyObject *given, *answer = NULL;
    Py_buffer data = {0}, bounds = {0};
    Py_ssize_t first;
    Grams grams;
    Found found = {0};
    size_t row;
    int failed;
    if (!PyArg_ParseTuple(arguments, "Oz*niiii", &given, &data, &first, &grams.words, &grams.shortest, &grams.longest,
                          &grams.bits))
        return NULL;
    const int strings = PyTuple_Check(given);
    Text *texts = NULL;
    if (!entries || grams.bits < 1 || grams.bits > 32)
        PyErr_SetString(PyExc_ValueError, "no table is loaded, or bits is not 1..32");
    else if (strings || !PyObject_GetBuffer(given, &bounds, PyBUF_SIMPLE)) {
        const Py_ssize_t count = strings ? PyTuple_Size(given) : bounds.len / 16;
        if (!(texts = PyMem_Malloc((size_t)(count + 1) * sizeof *texts)))
            PyErr_NoMemory();
        else if (strings ? texts_of_strings(given, texts, count, first)
                         : texts_of_bounds(&data, bounds.buf, texts, count, first)) {
            Py_BEGIN_ALLOW_THREADS
            failed = count_texts(texts, (size_t)count, grams, &found, &row);
            Py_END_ALLOW_THREADS
            if (failed == NOT_UTF8)
                PyErr_Format(PyExc_ValueError, "text %zd is not valid UTF-8", first + (Py_ssize_t)row);
            else if (failed)
                PyErr_NoMemory();
            else
                answer = Py_BuildValue("NNN", bytes_of(found.ends, (size_t)count * sizeof *found.ends),
                                       bytes_of(found.buckets, found.size * sizeof *found.buckets),
                                       bytes_of(found.counts, found.size * sizeof *found.counts));
        }
    }
    end_found(&found), PyMem_Free(texts), PyBuffer_Release(&data), PyBuffer_Release(&bounds);
    return answer;
}

/* The code points of the tokens of a str, each token with a newline, as native UTF-32. */
static PyObject *kernel_tokens(PyObject *Py_UNUSED(module), PyObject *text)
{
    Scanner scanner = {.traced = 1};
    Py_ssize_t size;
    const char *data = PyUnicode_AsUTF8AndSize(text, &size);
    if (!data)
        return NULL;
    PyObject *answer = scan(&scanner, (const uint8_t *)data, (size_t)size)
                           ? PyErr_NoMemory()
                           : bytes_of(scanner.tokens.at, scanner.tokens.size * sizeof *scanner.tokens.at);
    end_scanner(&scanner);
    return answer;
}

/* Weigh into three arrays of sizes that suffice. */
static PyObject *kernel_weigh(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    Py_buffer of[8];
    if (!PyArg_ParseTuple(arguments, "y*y*y*y*y*w*w*w*", of, of + 1, of + 2, of + 3, of + 4, of + 5, of + 6, of + 7))
        return NULL;
    const Rows from = {of[0].buf, of[1].buf, of[2].buf}, to = {of[5].buf, of[6].buf, of[7].buf};
    int fit = of[0].len >= 8 && of[1].len == of[2].len && of[5].len == of[0].len && of[6].len == of[1].len
              && of[7].len == of[1].len;
    Py_BEGIN_ALLOW_THREADS
    fit = fit && weigh(from, (size_t)of[0].len / 8 - 1, (size_t)of[1].len / 4, of[3].buf, (size_t)of[3].len / 4, of[4].buf,
                       (size_t)of[4].len / 4, to);
    Py_END_ALLOW_THREADS
    for (int i = 0; i < 8; i++)
        PyBuffer_Release(of + i);
    if (!fit)
        return PyErr_Format(PyExc_ValueError, "starts, buckets and counts do not fit together");
    Py_RETURN_NONE;
}

/* Use a table: three buffers, which it keeps. */
static PyObject *kernel_load(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    Py_buffer of[3]; /* never released: the table points into them */
    if (!PyArg_ParseTuple(arguments, "y*y*y*", of, of + 1, of + 2))
        return NULL;
    if (!load_table(of[0].buf, (size_t)of[0].len / 2, of[1].buf, (size_t)of[1].len / 2, of[2].buf, (size_t)of[2].len / 4))
        return PyErr_Format(PyExc_ValueError, "this is no table of code points");
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"count", kernel_count, METH_VARARGS, NULL},
    {"tokens", kernel_tokens, METH_O, NULL},
    {"weigh", kernel_weigh, METH_VARARGS, NULL},
    {"load", kernel_load, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "_kernel", .m_size = -1, .m_methods = methods};

PyMODINIT_FUNC PyInit__kernel(void)
{
    return PyModule_Create(&definition);
}
#endif
