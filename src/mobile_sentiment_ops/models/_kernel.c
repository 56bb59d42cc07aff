/* From UTF-8 to counted features: what reference.py says in Python, about a thousand times faster.
 *
 *     table      code points -> classes and folded code points, read from code_points.bin and checked once
 *     scanner    bytes -> folded code points -> tokens -> hashes of runs of tokens and of characters
 *     counting   hashes of a text -> sorted distinct buckets with counts
 *     weighing   buckets -> weights of length 1
 *     module     the door to Python; everything above knows no Python (KERNEL_CORE_ONLY) and is fuzzed so
 *
 * Nothing is read outside of what was given, whatever it holds. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, NO_MEMORY = -1, NOT_UTF8 = -2 };

/* --- table */

enum { SEPARATOR, DROPPED, WORD, UNSPACED, EMOJI, CLASSES };
enum { BLOCK = 64, BLOCKS = 0x110000 / BLOCK, HEAD = 32 };

static uint16_t block_of[BLOCKS];
static uint16_t *entries; /* NULL until a table is loaded */
static uint32_t *folded;
static uint32_t ascii[128]; /* the one folded code point, or a class below WORD; ASCII has nothing else */

static uint32_t little_endian(const uint8_t *at, int width)
{
    uint32_t value = 0;
    while (width--)
        value = value << 8 | at[width];
    return value;
}

/* Whether `data` is a table whose every number stays inside of it; it then serves until the process ends. */
static int load_table(const uint8_t *data, size_t size)
{
    const size_t sizes = HEAD + 2 * BLOCKS;
    if (size < sizes + 8)
        return 0;
    const size_t blocks = little_endian(data + sizes, 4), words = little_endian(data + sizes + 4, 4);
    if (blocks > 0x10000 || words > 0x10000 || !words || size != sizes + 8 + blocks * BLOCK * 2 + words * 4)
        return 0;
    const uint8_t *entry = data + sizes + 8, *word = entry + blocks * BLOCK * 2;
    uint16_t *new_entries = malloc(blocks * BLOCK * 2 + 2);
    uint32_t *new_folded = malloc(words * 4);
    int sound = new_entries && new_folded;
    for (size_t i = 0; sound && i < BLOCKS; i++)
        sound = (block_of[i] = (uint16_t)little_endian(data + HEAD + 2 * i, 2)) < blocks;
    for (size_t i = 0; sound && i < blocks * BLOCK; i++)
        sound = (new_entries[i] = (uint16_t)little_endian(entry + 2 * i, 2)) < CLASSES + words;
    for (size_t i = 0; sound && i < words; i++)
        sound = ((new_folded[i] = little_endian(word + 4 * i, 4)) & 0xFFFFFF) < 0x110000;
    if (!sound || !(new_folded[words - 1] >> 31)) {
        free(new_entries), free(new_folded);
        return 0;
    }
    free(entries), free(folded);
    entries = new_entries, folded = new_folded;
    for (uint32_t point = 0; point < 128; point++) {
        uint32_t found = entries[block_of[point / BLOCK] * BLOCK + point % BLOCK];
        ascii[point] = found >= CLASSES ? folded[found - CLASSES] & 0xFFFFFF : found == WORD ? point : found;
    }
    return 1;
}

/* --- scanner */

enum { START = 2, END = 3 }; /* of a token, among its characters; both are separators outside */
static const uint32_t WORDS_SEED = 0x243F6A88, CHARACTERS_SEED = 0x85A308D3;

static inline uint32_t step(uint32_t hash, uint32_t value)
{
    return ((hash << 5 | hash >> 27) ^ value) * 0x9E3779B1u;
}

static inline uint32_t finish(uint32_t hash)
{
    return (hash ^ hash >> 15) * 0xC2B2AE35u;
}

typedef struct {
    int words, shortest, longest, bits;
} Grams;

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

typedef struct {
    Grams grams;
    Vector hashes, token, tokens; /* of the text; code points of the open token; of all tokens, when traced */
    int traced, kept;             /* whether all tokens are wanted, and the characters of a token at all */
    int run, tokens_seen;         /* the class of the open run: WORD, UNSPACED or 0 for none */
    size_t run_size;
    uint32_t hash, last, pair;    /* of the open token; of the last token; of the last two */
    uint32_t before[2];           /* the last two code points of an unspaced run */
} Scanner;

/* A token is complete, with its hash before `finish` and its code points in `token` when they are kept. */
static int end_token(Scanner *scanner, uint32_t hash)
{
    Vector *token = &scanner->token, *hashes = &scanner->hashes;
    const Grams *grams = &scanner->grams;
    int failed = 0;
    hash = finish(hash);
    failed |= push(hashes, hash);
    if (scanner->tokens_seen) {
        uint32_t pair = finish(step(scanner->last, hash));
        if (grams->words >= 2)
            failed |= push(hashes, pair);
        if (grams->words >= 3 && scanner->tokens_seen >= 2)
            failed |= push(hashes, finish(step(scanner->pair, hash)));
        scanner->pair = pair;
    }
    scanner->last = hash;
    scanner->tokens_seen += scanner->tokens_seen < 2;
    if (!scanner->kept || failed)
        return failed ? NO_MEMORY : OK;
    if (scanner->traced) {
        for (size_t i = 1; i < token->size; i++)
            failed |= push(&scanner->tokens, token->at[i]);
        failed |= push(&scanner->tokens, '\n');
    }
    failed |= push(token, END);
    for (size_t first = 0; !failed && grams->longest && first < token->size; first++) {
        uint32_t run = CHARACTERS_SEED;
        for (int size = 1; size <= grams->longest && first + size <= token->size; size++) {
            run = step(run, token->at[first + size - 1]);
            if (size >= grams->shortest)
                failed |= push(hashes, finish(run));
        }
    }
    return failed ? NO_MEMORY : OK;
}

static int begin_token(Scanner *scanner)
{
    scanner->hash = WORDS_SEED;
    scanner->token.size = 0;
    return scanner->kept ? push(&scanner->token, START) : OK;
}

static inline int extend_token(Scanner *scanner, uint32_t point)
{
    scanner->hash = step(scanner->hash, point);
    return scanner->kept ? push(&scanner->token, point) : OK;
}

static int whole_token(Scanner *scanner, const uint32_t *points, size_t size)
{
    int failed = begin_token(scanner);
    for (size_t i = 0; i < size; i++)
        failed |= extend_token(scanner, points[i]);
    return failed ? NO_MEMORY : end_token(scanner, scanner->hash);
}

static int end_run(Scanner *scanner)
{
    int run = scanner->run;
    scanner->run = 0;
    if (run == WORD)
        return end_token(scanner, scanner->hash);
    if (run == UNSPACED && scanner->run_size < 3) /* too short for a triple: itself */
        return whole_token(scanner, scanner->before + 2 - scanner->run_size, scanner->run_size);
    return OK;
}

/* The next folded code point of the text. */
static int take(Scanner *scanner, uint32_t point, int class)
{
    int failed = 0;
    if (class == DROPPED)
        return OK;
    if (scanner->run != class) {
        failed |= end_run(scanner);
        if (class == EMOJI)
            return failed | whole_token(scanner, &point, 1);
        scanner->run = class == SEPARATOR ? 0 : class;
        scanner->run_size = 0;
        if (class == WORD)
            failed |= begin_token(scanner);
    }
    if (class == WORD)
        failed |= extend_token(scanner, point);
    else if (class == UNSPACED) {
        uint32_t triple[3] = {scanner->before[0], scanner->before[1], point};
        if (++scanner->run_size >= 3)
            failed |= whole_token(scanner, triple, 3);
        scanner->before[0] = scanner->before[1], scanner->before[1] = point;
    }
    return failed ? NO_MEMORY : OK;
}

/* The code point at `at`, whose bytes are moved past; -1 when the bytes are not UTF-8. */
static int32_t decode(const uint8_t **at, const uint8_t *end)
{
    static const int32_t least[4] = {0, 0x80, 0x800, 0x10000};
    const uint8_t *byte = *at;
    int more = *byte < 0x80 ? 0 : *byte < 0xC2 ? 4 : *byte < 0xE0 ? 1 : *byte < 0xF0 ? 2 : *byte < 0xF5 ? 3 : 4;
    if (more > 3 || end - byte <= more)
        return -1;
    int32_t point = more ? *byte & (0x3F >> more) : *byte;
    for (int i = 1; i <= more; i++) {
        if ((byte[i] & 0xC0) != 0x80)
            return -1;
        point = point << 6 | (byte[i] & 0x3F);
    }
    if (point < least[more] || point > 0x10FFFF || (point >= 0xD800 && point < 0xE000))
        return -1;
    *at = byte + more + 1;
    return point;
}

/* The hashes of a text, in `hashes`. */
static int scan(Scanner *scanner, const uint8_t *at, size_t size)
{
    const uint8_t *end = at + size;
    int failed = 0;
    scanner->hashes.size = scanner->tokens.size = 0;
    scanner->run = scanner->tokens_seen = 0;
    while (at < end && !failed) {
        if (*at < 128 && !scanner->kept) { /* most text: a word of ASCII at once */
            uint32_t value = ascii[*at], hash = scanner->hash;
            if (value < CLASSES) {
                at++;
                if (value == SEPARATOR && scanner->run)
                    failed = end_run(scanner);
                continue;
            }
            if (scanner->run != WORD) {
                failed = end_run(scanner);
                scanner->run = WORD, hash = WORDS_SEED;
            }
            do
                hash = step(hash, value);
            while (++at < end && *at < 128 && (value = ascii[*at]) >= CLASSES);
            scanner->hash = hash;
            continue;
        }
        int32_t point = decode(&at, end);
        if (point < 0)
            return NOT_UTF8;
        uint32_t entry = entries[block_of[point / BLOCK] * BLOCK + point % BLOCK];
        if (entry < CLASSES) {
            failed = take(scanner, (uint32_t)point, (int)entry);
            continue;
        }
        const uint32_t *next = folded + entry - CLASSES;
        do
            failed |= take(scanner, *next & 0xFFFFFF, *next >> 24 & 0x7F);
        while (!(*next++ >> 31));
    }
    return failed || end_run(scanner) ? NO_MEMORY : OK;
}

/* --- counting */

enum { FEW = 48 }; /* up to so many numbers insertion is the faster way to sort */

/* `size` numbers below 2^bits in rising order; `spare` has room for as many. */
static void sort(uint32_t *numbers, uint32_t *spare, size_t size, int bits)
{
    if (size <= FEW) {
        for (size_t i = 1; i < size; i++) {
            uint32_t number = numbers[i];
            size_t to = i;
            for (; to && numbers[to - 1] > number; to--)
                numbers[to] = numbers[to - 1];
            numbers[to] = number;
        }
        return;
    }
    for (int shift = 0; shift < bits; shift += 8) { /* by one byte after the other */
        size_t starts[257] = {0};
        for (size_t i = 0; i < size; i++)
            starts[(numbers[i] >> shift & 0xFF) + 1]++;
        for (int i = 0; i < 255; i++)
            starts[i + 1] += starts[i];
        for (size_t i = 0; i < size; i++)
            spare[starts[numbers[i] >> shift & 0xFF]++] = numbers[i];
        memcpy(numbers, spare, size * sizeof *numbers);
    }
}

typedef struct {
    const uint8_t *at;
    size_t size;
} Text;

typedef struct { /* of the texts in turn: `ends[i]` is where the buckets of text i end */
    int64_t *ends;
    int32_t *buckets;
    float *counts;
    size_t size, room;
} Found;

/* The filled buckets of `count` texts; on failure `*fault` is the text at which it happened. */
static int count_texts(const Text *texts, size_t count, Grams grams, Found *found, size_t *fault)
{
    Scanner scanner = {.grams = grams, .kept = grams.longest > 0};
    Vector spare = {0};
    int failed = (found->ends = malloc((count + 1) * sizeof *found->ends)) ? OK : NO_MEMORY;
    *fault = 0;
    for (size_t row = 0; row < count && !failed; row++) {
        *fault = row;
        if ((failed = scan(&scanner, texts[row].at, texts[row].size)))
            break;
        uint32_t *hashes = scanner.hashes.at;
        const size_t size = scanner.hashes.size;
        while (spare.room < size && !(failed = enlarge(&spare)))
            ;
        if (!failed && found->size + size > found->room) {
            size_t room = 2 * found->room + size + 1024;
            int32_t *buckets = realloc(found->buckets, room * sizeof *buckets);
            found->buckets = buckets ? buckets : found->buckets;
            float *counts = realloc(found->counts, room * sizeof *counts);
            found->counts = counts ? counts : found->counts;
            found->room = room;
            failed = buckets && counts ? OK : NO_MEMORY;
        }
        if (failed)
            break;
        for (size_t i = 0; i < size; i++)
            hashes[i] >>= 32 - grams.bits;
        sort(hashes, spare.at, size, grams.bits);
        for (size_t i = 0, next; i < size; i = next) {
            for (next = i + 1; next < size && hashes[next] == hashes[i]; next++)
                ;
            found->buckets[found->size] = (int32_t)hashes[i];
            found->counts[found->size++] = (float)(next - i);
        }
        found->ends[row] = (int64_t)found->size;
    }
    free(scanner.hashes.at), free(scanner.token.at), free(spare.at);
    return failed;
}

static void forget(Found *found)
{
    free(found->ends), free(found->buckets), free(found->counts);
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

/* The texts of a tuple of str; NULL with an exception that names the text. */
static Text *texts_of_tuple(PyObject *tuple, Py_ssize_t count, Py_ssize_t first)
{
    Text *texts = PyMem_Malloc((size_t)(count + 1) * sizeof *texts);
    for (Py_ssize_t row = 0; texts && row < count; row++) {
        Py_ssize_t size;
        const char *data = PyUnicode_AsUTF8AndSize(PyTuple_GetItem(tuple, row), &size);
        if (!data) {
            if (PyErr_ExceptionMatches(PyExc_UnicodeEncodeError))
                PyErr_Format(PyExc_ValueError, "text %zd holds a lone surrogate, which is half a character", first + row);
            else if (PyErr_ExceptionMatches(PyExc_TypeError))
                PyErr_Format(PyExc_TypeError, "text %zd is no str", first + row);
            PyMem_Free(texts);
            return NULL;
        }
        texts[row] = (Text){(const uint8_t *)data, (size_t)size};
    }
    return texts ? texts : (Text *)PyErr_NoMemory();
}

/* The texts between Arrow offsets of `width` bytes, from offset `from` on; a null is an empty text. */
static Text *texts_of_arrow(Py_buffer *data, Py_buffer *offsets, Py_buffer *valid, Py_ssize_t from, Py_ssize_t count,
                            int width, Py_ssize_t first)
{
    const char *fault = NULL;
    Text *texts = PyMem_Malloc((size_t)(count + 1) * sizeof *texts);
    if (!texts)
        return (Text *)PyErr_NoMemory();
    const Py_ssize_t last = offsets->len / width - 1; /* texts that have both their offsets */
    if (count && (from < 0 || count > last || from > last - count))
        fault = "is outside of its offsets";
    else if (valid->buf && (from + count + 7) / 8 > valid->len)
        fault = "is outside of its validity bits";
    Py_ssize_t row = 0;
    for (; !fault && row < count; row++) {
        int64_t ends[2];
        const char *at = (const char *)offsets->buf + (from + row) * width;
        if (width == 8)
            memcpy(ends, at, sizeof ends);
        else {
            int32_t narrow[2];
            memcpy(narrow, at, sizeof narrow);
            ends[0] = narrow[0], ends[1] = narrow[1];
        }
        if (ends[0] < 0 || ends[1] < ends[0] || ends[1] > data->len) {
            fault = "has offsets that do not rise within its data";
            break;
        }
        int null = valid->buf && !(((const uint8_t *)valid->buf)[(from + row) / 8] >> (from + row) % 8 & 1);
        texts[row] = (Text){(const uint8_t *)data->buf + (null ? 0 : ends[0]), null ? 0 : (size_t)(ends[1] - ends[0])};
    }
    if (!fault)
        return texts;
    PyErr_Format(PyExc_ValueError, "text %zd %s", first + row, fault);
    PyMem_Free(texts);
    return NULL;
}

static PyObject *counted(const Text *texts, Py_ssize_t count, Grams grams, Py_ssize_t first)
{
    Found found = {0};
    size_t fault;
    int failed;
    PyObject *answer = NULL;
    Py_BEGIN_ALLOW_THREADS
    failed = count_texts(texts, (size_t)count, grams, &found, &fault);
    Py_END_ALLOW_THREADS
    if (failed == NOT_UTF8)
        PyErr_Format(PyExc_ValueError, "text %zd is not valid UTF-8", first + (Py_ssize_t)fault);
    else if (failed)
        PyErr_NoMemory();
    else
        answer = Py_BuildValue("NNN", bytes_of(found.ends, (size_t)count * sizeof *found.ends),
                               bytes_of(found.buckets, found.size * sizeof *found.buckets),
                               bytes_of(found.counts, found.size * sizeof *found.counts));
    forget(&found);
    return answer;
}

#define GRAMS "iiii"
#define GRAMS_INTO(grams) &(grams).words, &(grams).shortest, &(grams).longest, &(grams).bits

static int usable(Grams grams)
{
    if (entries && grams.words >= 1 && grams.words <= 3 && grams.shortest >= 0 && grams.longest <= 64 && grams.bits >= 1
        && grams.bits <= 30)
        return 1;
    PyErr_SetString(PyExc_ValueError, entries ? "these grams are out of range" : "no table of code points is loaded");
    return 0;
}

static PyObject *module_count_tuple(PyObject *module, PyObject *arguments)
{
    PyObject *tuple, *answer = NULL;
    Py_ssize_t first;
    Grams grams;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "O!n" GRAMS, &PyTuple_Type, &tuple, &first, GRAMS_INTO(grams)) || !usable(grams))
        return NULL;
    Py_ssize_t count = PyTuple_Size(tuple);
    Text *texts = texts_of_tuple(tuple, count, first);
    if (texts)
        answer = counted(texts, count, grams, first);
    PyMem_Free(texts);
    return answer;
}

static PyObject *module_count_arrow(PyObject *module, PyObject *arguments)
{
    Py_buffer data, offsets, valid;
    Py_ssize_t from, count, first;
    int width;
    Grams grams;
    PyObject *answer = NULL;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "z*z*z*nnin" GRAMS, &data, &offsets, &valid, &from, &count, &width, &first,
                          GRAMS_INTO(grams)))
        return NULL;
    if (count < 0 || (width != 4 && width != 8))
        PyErr_SetString(PyExc_ValueError, "offsets are of 4 or 8 bytes");
    else if (usable(grams)) {
        Text *texts = texts_of_arrow(&data, &offsets, &valid, from, count, width, first);
        if (texts)
            answer = counted(texts, count, grams, first);
        PyMem_Free(texts);
    }
    PyBuffer_Release(&data), PyBuffer_Release(&offsets), PyBuffer_Release(&valid);
    return answer;
}

static PyObject *module_tokens(PyObject *module, PyObject *arguments)
{
    Scanner scanner = {.grams = {.words = 1}, .traced = 1, .kept = 1};
    const char *data;
    Py_ssize_t size;
    PyObject *answer = NULL;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "y#", &data, &size) || !usable((Grams){1, 0, 0, 20}))
        return NULL;
    int failed = scan(&scanner, (const uint8_t *)data, (size_t)size);
    if (failed == NOT_UTF8)
        PyErr_SetString(PyExc_ValueError, "this is not valid UTF-8");
    else if (failed)
        PyErr_NoMemory();
    else
        answer = bytes_of(scanner.tokens.at, scanner.tokens.size * sizeof *scanner.tokens.at);
    free(scanner.hashes.at), free(scanner.token.at), free(scanner.tokens.at);
    return answer;
}

static PyObject *module_load(PyObject *module, PyObject *arguments)
{
    const char *data;
    Py_ssize_t size;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "y#", &data, &size))
        return NULL;
    if (!load_table((const uint8_t *)data, (size_t)size))
        return PyErr_Format(PyExc_ValueError, "this is no table of code points");
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"load", module_load, METH_VARARGS, "Use this table of code points."},
    {"tokens", module_tokens, METH_VARARGS, "The tokens of UTF-8 text, each with a newline, as native UTF-32."},
    {"count_tuple", module_count_tuple, METH_VARARGS, "Ends, buckets and counts of a tuple of texts, as bytes."},
    {"count_arrow", module_count_arrow, METH_VARARGS, "The same of texts in Arrow's buffers."},
    {0},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "_kernel", .m_size = -1, .m_methods = methods};

PyMODINIT_FUNC PyInit__kernel(void)
{
    return PyModule_Create(&definition);
}
#endif
