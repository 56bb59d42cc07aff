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

/* --- hashing: a polynomial of the code points, whose best bits are mixed once more */

static const uint64_t FACTOR = 0x9E3779B97F4A7C15, MIXER = 0xD1342543DE82EF95;
static const uint64_t WORDS_SEED = 0x243F6A8885A308D3, CHARACTERS_SEED = 0x13198A2E03707344;

static inline uint64_t step(uint64_t hash, uint32_t value)
{
    return hash * FACTOR + value;
}

static inline uint32_t finish(uint64_t hash)
{
    return (uint32_t)(((hash ^ hash >> 32) * MIXER) >> 32);
}

/* --- table: docs/code_points.py tells its shape */

enum { SEPARATOR, DROPPED, WORD, UNSPACED, EMOJI, CLASSES };
enum { BLOCK = 64, BLOCKS = 0x110000 / BLOCK };

static const uint16_t *block_of, *entries; /* NULL until a table is loaded */
static const uint32_t *folded;
static uint64_t times[128], plus[128]; /* what a byte of ASCII makes of the hash of the open word: hash * times + plus */
static uint64_t powers[8];             /* of FACTOR */

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
    for (int i = 0; i < 8; i++)
        powers[i] = i ? powers[i - 1] * FACTOR : 1;
    for (uint32_t point = 0; point < 128; point++) {
        const uint32_t entry = entry_of(point);
        const int separates = entry == SEPARATOR, dropped = entry == DROPPED;
        times[point] = separates ? 0 : dropped ? 1 : FACTOR;
        plus[point] = separates ? WORDS_SEED : dropped ? 0 : entry == WORD ? point : folded[entry - CLASSES] & 0xFFFFFF;
    }
    return 1;
}

/* --- scanner */

typedef struct {
    uint32_t *at;
    size_t size, room;
} Vector;

static int reserve(Vector *vector, size_t more)
{
    if (vector->room - vector->size >= more)
        return OK;
    if (more > SIZE_MAX / 16 || vector->room > SIZE_MAX / 16)
        return NO_MEMORY;
    const size_t room = 2 * vector->room + more + 64;
    uint32_t *at = realloc(vector->at, room * sizeof *at);
    if (!at)
        return NO_MEMORY;
    vector->at = at, vector->room = room;
    return OK;
}

static inline int push(Vector *vector, uint32_t value)
{
    if (vector->size == vector->room && reserve(vector, 1))
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
    Vector words, hashes;  /* of the text: the hash of each token, and those of all its features */
    Vector tokens;         /* the code points of its tokens, each token with a newline */
    Vector points;         /* of the open run; not of words that need their hash alone */
    uint64_t hash;         /* of the open run */
    int run;               /* its class */
} Scanner;

static const uint32_t START = 2, END = 3; /* around the characters of a token; both are separators outside */

/* A run's hash is what the hash of all code points up to its end has more than that of those before it. */
static int characters(Scanner *scanner, const uint32_t *points, size_t size)
{
    const size_t shortest = (size_t)scanner->grams.shortest, longest = (size_t)scanner->grams.longest;
    uint64_t hashes[8] = {0}, hash = 0; /* the hash of all before, at places modulo 8 */
    if (size > SIZE_MAX / 128 || reserve(&scanner->hashes, (size + 2) * (longest - shortest + 1)))
        return NO_MEMORY;
    uint32_t *to = scanner->hashes.at + scanner->hashes.size;
    for (size_t at = 1; at <= size + 2; at++) {
        hashes[at % 8] = hash = step(hash, at == 1 ? START : at > size + 1 ? END : points[at - 2]);
        for (size_t run = shortest; run <= longest && run <= at; run++)
            *to++ = finish(hash - (hashes[(at - run) % 8] - CHARACTERS_SEED) * powers[run]) | scanner->family;
    }
    scanner->hashes.size = (size_t)(to - scanner->hashes.at);
    return OK;
}

/* A complete token; its code points are read only for characters and when traced. */
static inline int token(Scanner *scanner, const uint32_t *points, size_t size, uint64_t hash)
{
    int failed = push(&scanner->words, finish(hash) & ~scanner->family);
    for (size_t i = 0; scanner->traced && i <= size; i++)
        failed |= push(&scanner->tokens, i < size ? points[i] : '\n');
    return scanner->grams.longest ? failed | characters(scanner, points, size) : failed;
}

/* The hashes of all runs of tokens: each of a run that is one shorter and of the token behind it. */
static int runs_of_words(Scanner *scanner)
{
    const size_t count = scanner->words.size;
    if (reserve(&scanner->hashes, 3 * count))
        return NO_MEMORY;
    const uint32_t *words = scanner->words.at, *shorter = words;
    const uint32_t family = scanner->family;
    for (size_t size = 1; size <= (size_t)scanner->grams.words && size <= count; size++) {
        uint32_t *to = scanner->hashes.at + scanner->hashes.size;
        for (size_t i = 0; i + size <= count; i++)
            to[i] = size == 1 ? words[i] : finish(step(shorter[i], words[i + size - 1])) & ~family;
        shorter = to;
        scanner->hashes.size += count - size + 1;
    }
    return OK;
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

/* Most text is ASCII: up to what is not, without a branch that depends on the letters. A word is written down at every
 * byte and counts when a separator follows. */
static int ascii(Scanner *scanner, const uint8_t **from, const uint8_t *end)
{
    const uint8_t *at = *from;
    if ((scanner->run == EMOJI && end_run(scanner)) || reserve(&scanner->words, (size_t)(end - at) / 2 + 2))
        return NO_MEMORY;
    uint32_t *to = scanner->words.at + scanner->words.size;
    unsigned open = scanner->run == WORD;
    uint64_t hash = open ? scanner->hash : WORDS_SEED;
    for (; at < end && *at < 128; at++) {
        const uint64_t factor = times[*at];
        const unsigned separates = factor == 0;
        *to = finish(hash);
        to += separates & open;
        open = (open | (factor > 1)) & !separates;
        hash = hash * factor + plus[*at];
    }
    scanner->words.size = (size_t)(to - scanner->words.at);
    scanner->run = open ? WORD : SEPARATOR, scanner->hash = hash;
    *from = at;
    return OK;
}

/* The same where the code points of words are wanted. */
static int spelled(Scanner *scanner, const uint8_t **from, const uint8_t *end)
{
    const uint8_t *at = *from;
    if ((scanner->run == EMOJI && end_run(scanner)) || (scanner->run == SEPARATOR && begin_run(scanner, SEPARATOR))
        || reserve(&scanner->points, (size_t)(end - at)))
        return NO_MEMORY;
    int failed = OK;
    for (; at < end && *at < 128; at++) {
        const uint64_t factor = times[*at];
        if (factor) {
            scanner->points.at[scanner->points.size] = (uint32_t)plus[*at];
            scanner->points.size += factor > 1;
            scanner->hash = scanner->hash * factor + plus[*at];
        } else if (scanner->points.size) {
            scanner->run = WORD;
            failed |= begin_run(scanner, SEPARATOR);
        }
    }
    scanner->run = scanner->points.size ? WORD : SEPARATOR;
    *from = at;
    return failed;
}

/* The hashes of a text, in `hashes`. */
static int scan(Scanner *scanner, const uint8_t *at, size_t size)
{
    const uint8_t *const end = at + size;
    const int hash_alone = !scanner->traced && !scanner->grams.longest;
    int failed = OK;
    scanner->words.size = scanner->hashes.size = scanner->tokens.size = 0;
    scanner->run = SEPARATOR;
    while (at < end && !failed) {
        if (*at < 128 && scanner->run != UNSPACED) {
            failed = (hash_alone ? ascii : spelled)(scanner, &at, end);
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
    return failed || end_run(scanner) || runs_of_words(scanner) ? NO_MEMORY : OK;
}

static void end_scanner(Scanner *scanner)
{
    free(scanner->words.at), free(scanner->hashes.at), free(scanner->tokens.at), free(scanner->points.at);
}

/* --- counting */

/* `from` into `to` by so many of its bits from `shift` on, otherwise in the same order. */
static inline void distribute(const uint32_t *from, uint32_t *to, size_t size, int shift, int bits)
{
    size_t starts[257];
    const uint32_t mask = (1u << bits) - 1;
    memset(starts, 0, (mask + 2) * sizeof *starts);
    for (size_t i = 0; i < size; i++)
        starts[(from[i] >> shift & mask) + 1]++;
    for (uint32_t i = 1; i <= mask; i++)
        starts[i] += starts[i - 1];
    for (size_t i = 0; i < size; i++)
        to[starts[from[i] >> shift & mask]++] = from[i];
}

/* Where the numbers are in the order of their bits from `shift` on: here, or in `spare` of the same size. Few are put
 * near their place by their first bits and moved there; many are distributed by all, so that none can make it slow. */
static uint32_t *sorted(uint32_t *numbers, uint32_t *spare, size_t size, int shift)
{
    if (size > 128) {
        for (; shift < 32; shift += 8) {
            uint32_t *from = numbers;
            distribute(from, spare, size, shift, 8);
            numbers = spare, spare = from;
        }
        return numbers;
    }
    if (size > 8) {
        distribute(numbers, spare, size, 26, 6);
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

typedef struct { /* rows between `starts`, of which there are one more */
    int64_t *starts;
    int32_t *numbers;
    float *values;
} Rows;

/* The filled buckets of the texts from `*row` on, with how often each occurs. Stops at a text that could be more than
 * `room` is left for, or that fails: `*row` is the first that was not counted. */
static int count_texts(const Text *texts, size_t count, Grams grams, Rows to, size_t room, size_t *row)
{
    Scanner scanner = {.grams = grams, .family = grams.longest ? (uint32_t)1 << (32 - grams.bits) : 0};
    Vector spare = {0};
    const int shift = 32 - grams.bits;
    int failed = OK;
    for (size_t filled = (size_t)to.starts[*row]; *row < count; ++*row) {
        failed = scan(&scanner, texts[*row].at, texts[*row].size);
        const size_t size = scanner.hashes.size;
        if (failed || (failed = reserve(&spare, size)) || size > room - filled)
            break;
        const uint32_t *hashes = sorted(scanner.hashes.at, spare.at, size, shift);
        for (size_t i = 0, next; i < size; i = next) {
            for (next = i + 1; next < size && hashes[next] >> shift == hashes[i] >> shift;)
                next++;
            to.numbers[filled] = (int32_t)(hashes[i] >> shift);
            to.values[filled++] = (float)(next - i);
        }
        to.starts[*row + 1] = (int64_t)filled;
    }
    end_scanner(&scanner), free(spare.at);
    return failed;
}

/* --- weighing */

static inline uint32_t column_of(Rows from, size_t at, size_t size, const int32_t *columns, size_t buckets)
{
    return at < size && (uint32_t)from.numbers[at] < buckets ? (uint32_t)columns[from.numbers[at]] : UINT32_MAX;
}

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
            const uint32_t column = column_of(from, at, size, columns, buckets);
            const uint32_t soon = column_of(from, at + 16, size, columns, buckets);
            if (soon < features) /* both tables are far larger than the nearest cache */
                __builtin_prefetch(weights + soon);
            if (at + 32 < size && (uint32_t)from.numbers[at + 32] < buckets)
                __builtin_prefetch(columns + from.numbers[at + 32]);
            if (column >= features)
                continue;
            const float times = from.values[at];
            const float value = (times >= 1 && times < 64 ? logs[(int)times] : 1 + (float)log(times)) * weights[column];
            to.numbers[filled] = (int32_t)column, to.values[filled++] = value;
            square += (double)value * value;
        }
        for (const float part = (float)(1 / sqrt(square)); first < filled; first++)
            to.values[first] *= part;
        to.starts[row + 1] = (int64_t)filled;
    }
    return 1;
}

/* --- module */

#ifndef KERNEL_CORE_ONLY
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

/* The text of a str, whose number is told when it cannot be read. */
static int text_of(PyObject *string, Text *text, Py_ssize_t number)
{
    Py_ssize_t size;
    const char *data = PyUnicode_AsUTF8AndSize(string, &size);
    if (data)
        *text = (Text){(const uint8_t *)data, (size_t)size};
    else if (PyErr_ExceptionMatches(PyExc_UnicodeEncodeError))
        PyErr_Format(PyExc_ValueError, "text %zd holds a lone surrogate, half of a character", number);
    return data != NULL;
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

/* The texts of a tuple of str, or of `data` between the pairs of places of `bounds`, which stay open; how many they are.
 * `first` is the number of the first one in messages. NULL when they cannot be read; who calls frees them. */
static Text *texts_of(PyObject *given, const Py_buffer *data, Py_buffer *bounds, Py_ssize_t first, Py_ssize_t *count)
{
    const int strings = PyTuple_Check(given);
    if (!strings && PyObject_GetBuffer(given, bounds, PyBUF_SIMPLE))
        return NULL;
    *count = strings ? PyTuple_Size(given) : bounds->len / 16;
    Text *texts = PyMem_Malloc((size_t)(*count + 1) * sizeof *texts);
    if (!texts)
        return (Text *)PyErr_NoMemory();
    int fine = strings || texts_of_bounds(data, bounds->buf, texts, *count, first);
    for (Py_ssize_t row = 0; strings && fine && row < *count; row++)
        fine = text_of(PyTuple_GetItem(given, row), texts + row, first + row);
    if (fine)
        return texts;
    PyMem_Free(texts);
    return NULL;
}

static void *refused(int failed, Py_ssize_t text)
{
    return failed == NOT_UTF8 ? PyErr_Format(PyExc_ValueError, "text %zd is not valid UTF-8", text) : PyErr_NoMemory();
}

/* Use a table: three buffers, which it keeps. */
static PyObject *kernel_load(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    Py_buffer of[3]; /* not released once they are used: the table points into them */
    if (!PyArg_ParseTuple(arguments, "y*y*y*", of, of + 1, of + 2))
        return NULL;
    if (load_table(of[0].buf, (size_t)of[0].len / 2, of[1].buf, (size_t)of[1].len / 2, of[2].buf, (size_t)of[2].len / 4))
        Py_RETURN_NONE;
    PyBuffer_Release(of), PyBuffer_Release(of + 1), PyBuffer_Release(of + 2);
    return PyErr_Format(PyExc_ValueError, "this is no table of code points");
}

#ifndef KERNEL_IN_ANOTHER_MODULE
/* Count the texts from `row` on until there is no more room in the arrays of the answer; where it stopped. */
static PyObject *kernel_count(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    PyObject *given;
    Py_buffer data, bounds = {0}, starts, buckets, counts;
    Py_ssize_t first, row, count;
    Grams grams;
    if (!PyArg_ParseTuple(arguments, "Oz*nniiiiw*w*w*", &given, &data, &first, &row, &grams.words, &grams.shortest,
                          &grams.longest, &grams.bits, &starts, &buckets, &counts))
        return NULL;
    Text *texts = texts_of(given, &data, &bounds, first, &count);
    const Rows to = {starts.buf, buckets.buf, counts.buf};
    const size_t room = (size_t)buckets.len / 4;
    if (texts
        && (!entries || grams.bits < 1 || grams.bits > 32 || row < 0 || row > count || starts.len != 8 * (count + 1)
            || counts.len != buckets.len || to.starts[row] < 0 || (size_t)to.starts[row] > room))
        PyErr_SetString(PyExc_ValueError, "no table is loaded, or bits is not 1..32, or the arrays do not fit");
    else if (texts) {
        size_t done = (size_t)row;
        int failed;
        Py_BEGIN_ALLOW_THREADS
        failed = count_texts(texts, (size_t)count, grams, to, room, &done);
        Py_END_ALLOW_THREADS
        row = (Py_ssize_t)done;
        if (failed)
            refused(failed, first + row);
    }
    PyMem_Free(texts), PyBuffer_Release(&data), PyBuffer_Release(&bounds);
    PyBuffer_Release(&starts), PyBuffer_Release(&buckets), PyBuffer_Release(&counts);
    return PyErr_Occurred() ? NULL : PyLong_FromSsize_t(row);
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
                           : PyBytes_FromStringAndSize((const char *)scanner.tokens.at,
                                                       (Py_ssize_t)(scanner.tokens.size * sizeof *scanner.tokens.at));
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
#endif
