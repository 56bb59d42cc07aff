/* From texts to probabilities by a compiled model: what compiled.py lays out, checks the hash of and maps.
 *
 *     model      arrays of a file, whose every number is checked once, when it is opened
 *     finding    hashes of a text -> its kept buckets by column, each with how often it occurs
 *     scoring    columns with counts -> three sums -> probabilities and the decided label
 *     rendering  labels and probabilities -> rows of JSON
 *     module     the door to Python; what is above knows no Python (SCORER_CORE_ONLY leaves it out) and is fuzzed
 *
 * A bit for each bucket with the number of bits before it finds a kept bucket's column in 256 KB, which stay near: rows
 * for all buckets, nine of ten of them empty, were as fast, and ten times as large. */

#pragma GCC diagnostic ignored "-Wunused-function" /* of the kernel */
#ifdef SCORER_CORE_ONLY
#define KERNEL_CORE_ONLY
#endif
#define KERNEL_IN_ANOTHER_MODULE
#include "_kernel.c"
#ifdef __POPCNT__
#include <cpuid.h>
#endif

/* --- model */

typedef struct { /* which of 32 buckets are kept, and how many before them */
    uint32_t kept, before;
} Block32;

typedef struct { /* a leaf is its own child and has its value in `below` */
    float below;
    int32_t left, right;
    uint32_t column; /* and whether a text without it goes where `0 < below` does not lead: the highest bit */
} Node;

typedef struct {
    int32_t root, class;
} Tree;

typedef struct {
    Grams grams;
    const Block32 *blocks;
    size_t columns;
    const float (*rows)[4]; /* of each column the weight and what it tells of the three classes; or NULL */
    const Node *nodes;
    size_t count;
    const Tree *trees;
    size_t size;
    const double (*mix)[3], *bias; /* sums times `mix` and `bias` are logits, */
    const double *favour;          /* probabilities times this decide */
} Model;

enum { ELSEWHERE = 1u << 31, LARGEST_BITS = 24 };

static inline uint32_t bits_of(uint32_t bits)
{
    return (uint32_t)__builtin_popcount(bits); /* an instruction of its own, where setup.py says so */
}

static int moderate(const double *numbers, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (!(fabs(numbers[i]) < 1e30))
            return 0;
    return 1;
}

/* What is wrong with a model, or NULL: then no text makes it read outside of its arrays, and no sum overflows. */
static const char *fault_of(const Model *model)
{
    const Grams grams = model->grams;
    uint32_t before = 0;
    if (grams.words < 1 || grams.words > 3 || grams.bits < 10 || grams.bits > LARGEST_BITS || grams.shortest < 0
        || grams.longest < grams.shortest || grams.longest > 6 || (grams.longest && !grams.shortest))
        return "the runs of words and characters";
    for (size_t i = 0; i < (size_t)1 << grams.bits >> 5; before += bits_of(model->blocks[i++].kept))
        if (model->blocks[i].before != before)
            return "blocks";
    if (before != model->columns)
        return "blocks";
    for (size_t i = 0; model->rows && i < model->columns; i++)
        for (int part = 0; part < 4; part++)
            if (!isfinite(model->rows[i][part]))
                return "rows";
    for (size_t i = 0; i < model->count; i++) {
        const Node node = model->nodes[i];
        if (!isfinite(node.below) || (node.column & ~ELSEWHERE) >= model->columns || node.left < (int64_t)i
            || node.right < (int64_t)i || (size_t)node.left >= model->count || (size_t)node.right >= model->count
            || (node.left == (int64_t)i) != (node.right == (int64_t)i))
            return "nodes";
    }
    for (size_t i = 0; i < model->size; i++)
        if (model->trees[i].root < 0 || (size_t)model->trees[i].root >= model->count || (uint32_t)model->trees[i].class > 2)
            return "trees";
    return moderate(*model->mix, 9) && moderate(model->bias, 3) && moderate(model->favour, 3) ? NULL : "bias, mix or favour";
}

/* --- finding */

enum { FEW = 512, SLOTS = 2 * FEW };

typedef struct { /* what one text after the other is read with */
    Scanner scanner;
    Vector columns, spare; /* of a text: its columns, and room to order them; then how often each occurs */
    float *counts;         /* for trees, of all columns; 0 between texts */
    uint32_t slots[SLOTS]; /* the place of a column, once `now` is added: slots of earlier texts are as if empty */
    uint32_t now;
} Scratch;

static Scratch scratch_for(const Model *model)
{
    const Grams grams = model->grams;
    return (Scratch){.scanner = {.grams = grams, .family = grams.longest ? (uint32_t)1 << (32 - grams.bits) : 0}};
}

static void end_scratch(Scratch *scratch)
{
    end_scanner(&scratch->scanner);
    free(scratch->columns.at), free(scratch->spare.at), free(scratch->counts);
}

/* The columns of a text, each once, in `columns`, and how often it occurs at the same place of `spare`. Few are looked up
 * in a small table, with no branch on whether one is new; many are put in order, so that none can make it slow. */
static int find(const Model *model, Scratch *scratch, Text text)
{
    const int failed = scan(&scratch->scanner, text.at, text.size), shift = 32 - model->grams.bits;
    const Vector hashes = scratch->scanner.hashes;
    scratch->columns.size = scratch->spare.size = 0;
    if (failed || reserve(&scratch->columns, hashes.size) || reserve(&scratch->spare, hashes.size))
        return failed ? failed : NO_MEMORY;
    uint32_t *columns = scratch->columns.at, *counts = scratch->spare.at;
    size_t size = 0, distinct = 0;
    for (size_t i = 0; i < hashes.size; i++)
        __builtin_prefetch(model->blocks + (hashes.at[i] >> shift) / 32);
    for (size_t i = 0; i < hashes.size; i++) {
        const uint32_t bucket = hashes.at[i] >> shift;
        const Block32 block = model->blocks[bucket / 32];
        const uint32_t column = block.before + bits_of(block.kept & ((1u << bucket % 32) - 1));
        if (model->rows)
            __builtin_prefetch(model->rows[column]);
        columns[size] = column;
        size += block.kept >> bucket % 32 & 1;
    }
    if (size <= FEW) {
        uint32_t *slots = scratch->slots;
        if (scratch->now > UINT32_MAX - 2 * FEW)
            memset(slots, 0, sizeof scratch->slots), scratch->now = 0;
        const uint32_t now = scratch->now += FEW;
        for (size_t i = 0; i < size; i++) {
            const uint32_t column = columns[i];
            uint32_t slot = column % SLOTS, place;
            columns[distinct] = column, counts[distinct] = 0;
            while (columns[place = slots[slot] >= now ? slots[slot] - now : (uint32_t)distinct] != column)
                slot = (slot + 1) % SLOTS;
            slots[slot] = now + place;
            counts[place]++;
            distinct += place == distinct;
        }
    } else {
        const uint32_t *ordered = sorted(columns, counts, size, 0); /* all four bytes: an even number of moves */
        for (size_t i = 0, next; i < size; i = next) {
            for (next = i + 1; next < size && ordered[next] == ordered[i];)
                next++;
            columns[distinct] = ordered[i], counts[distinct++] = (uint32_t)(next - i);
        }
    }
    scratch->columns.size = scratch->spare.size = distinct;
    return OK;
}

/* --- scoring */

static float logs[64]; /* 1 + log(count); filled when a model is opened */

static void weighed_sums(const Model *model, const Scratch *scratch, double sums[3])
{
    double square = 0, negative = 0, neutral = 0, positive = 0;
    for (size_t i = 0; i < scratch->columns.size; i++) {
        const float *row = model->rows[scratch->columns.at[i]];
        const uint32_t count = scratch->spare.at[i];
        const double value = (double)(count < 64 ? logs[count] : 1 + (float)log(count)) * row[0];
        square += value * value;
        negative += value * row[1], neutral += value * row[2], positive += value * row[3];
    }
    const double part = square > 0 ? 1 / sqrt(square) : 0;
    sums[0] = negative * part, sums[1] = neutral * part, sums[2] = positive * part;
}

static int leaf_sums(const Model *model, Scratch *scratch, double sums[3])
{
    if (!scratch->counts && !(scratch->counts = calloc(model->columns, sizeof *scratch->counts)))
        return NO_MEMORY;
    const float *counts = scratch->counts;
    for (size_t i = 0; i < scratch->columns.size; i++)
        scratch->counts[scratch->columns.at[i]] = (float)scratch->spare.at[i];
    sums[0] = sums[1] = sums[2] = 0;
    for (size_t tree = 0; tree < model->size; tree++) {
        int32_t at = model->trees[tree].root, from;
        const Node *node;
        do {
            node = model->nodes + (from = at);
            const float count = counts[node->column & ~ELSEWHERE];
            at = (count < node->below) != (count == 0 && node->column & ELSEWHERE) ? node->left : node->right;
        } while (at != from);
        sums[model->trees[tree].class] += node->below;
    }
    for (size_t i = 0; i < scratch->columns.size; i++)
        scratch->counts[scratch->columns.at[i]] = 0;
    return OK;
}

/* The decided label and the probabilities of a text, as calibration.py makes them. */
static int score(const Model *model, Scratch *scratch, Text text, uint8_t *label, double probabilities[3])
{
    static const double least = 1e-12;
    double sums[3], logits[3], sum = 0;
    int failed = find(model, scratch, text);
    if (failed)
        return failed;
    if (model->rows)
        weighed_sums(model, scratch, sums);
    else if (leaf_sums(model, scratch, sums))
        return NO_MEMORY;
    for (int to = 0; to < 3; to++)
        logits[to] = model->bias[to] + sums[0] * model->mix[0][to] + sums[1] * model->mix[1][to] + sums[2] * model->mix[2][to];
    const double more = logits[0] > logits[1] ? logits[0] : logits[1], most = more > logits[2] ? more : logits[2];
    for (int i = 0; i < 3; i++)
        sum += probabilities[i] = exp(logits[i] - most);
    double clipped = 0;
    for (int i = 0; i < 3; i++)
        clipped += probabilities[i] = probabilities[i] > least * sum ? probabilities[i] / sum : least;
    *label = 0;
    for (int i = 0; i < 3; i++) {
        probabilities[i] /= clipped;
        if (probabilities[i] * model->favour[i] > probabilities[*label] * model->favour[*label])
            *label = (uint8_t)i;
    }
    return OK;
}

/* --- rendering */

static const char *const NAMES[] = {"Negative", "Neutral", "Positive"};
static const char OPENING[] = "{\"review_id\":null,\"prediction_id\":\"", CLOSING[] = "},\"error\":null}";
enum { LONGEST_ROW = 256 }; /* of what is around the prefix; it takes up to 210 */

static inline char *put(char *to, const char *text, size_t size)
{
    memcpy(to, text, size);
    return to + size;
}
#define PUT(to, literal) put(to, literal, sizeof literal - 1)

/* A number without a sign, as JSON writes it. */
static char *put_count(char *to, uint64_t number)
{
    char digits[20];
    int size = 0;
    do
        digits[sizeof digits - (size_t)++size] = (char)('0' + number % 10);
    while (number /= 10);
    return put(to, digits + sizeof digits - size, (size_t)size);
}

/* A probability by its millionths, without zeros behind the first decimal. */
static char *put_millionths(char *to, uint32_t millionths)
{
    to[0] = (char)('0' + millionths / 1000000), to[1] = '.';
    for (int place = 7; place > 1; place--, millionths /= 10)
        to[place] = (char)('0' + millionths % 10);
    int last = 7;
    while (last > 2 && to[last] == '0')
        last--;
    return to + last + 1;
}

/* The rows of answers, with commas between; their end, or NULL when a label or a probability is none. */
static char *render(char *to, const uint8_t *labels, const double (*probabilities)[3], size_t count, const char *prefix,
                    size_t size, uint64_t first)
{
    for (size_t row = 0; row < count; row++) {
        uint32_t millionths[3];
        const uint8_t label = labels[row];
        for (int i = 0; i < 3; i++) {
            if (label > 2 || !(probabilities[row][i] >= 0 && probabilities[row][i] <= 1))
                return NULL;
            millionths[i] = (uint32_t)(probabilities[row][i] * 1e6 + 0.5);
        }
        to = PUT(to, OPENING);
        *(to = put(to, prefix, size)) = '-';
        to = PUT(put_count(to + 1, first + row), "\",\"sentiment\":\"");
        to = PUT(put(to, NAMES[label], label == 1 ? 7 : 8), "\",\"confidence\":");
        to = PUT(put_millionths(to, millionths[label]), ",\"probabilities\":{\"Negative\":");
        to = PUT(put_millionths(to, millionths[0]), ",\"Neutral\":");
        to = PUT(put_millionths(to, millionths[1]), ",\"Positive\":");
        to = PUT(put_millionths(to, millionths[2]), CLOSING);
        *to++ = ',';
    }
    return to - (count > 0);
}

/* --- module */

#ifndef SCORER_CORE_ONLY

enum { PARTS = 7, LONG_TEXT = 4096 };

typedef struct {
    PyObject_HEAD
    Py_buffer of[PARTS];
    Model model;
    Scratch scratch; /* for single short texts, which are scored without letting others in */
} Scorer;

static PyObject *scorer_new(PyTypeObject *type, PyObject *arguments, PyObject *Py_UNUSED(names))
{
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Scorer *self = (Scorer *)allocate(type, 0); /* all zero */
    if (!self)
        return NULL;
    Model *model = &self->model;
    Grams *grams = &model->grams;
    Py_buffer *of = self->of;
    if (!PyArg_ParseTuple(arguments, "(iiii)y*y*y*y*y*y*y*", &grams->words, &grams->shortest, &grams->longest, &grams->bits,
                          of, of + 1, of + 2, of + 3, of + 4, of + 5, of + 6)) {
        Py_DecRef((PyObject *)self);
        return NULL;
    }
    model->blocks = of[0].buf;
    model->rows = of[2].len ? NULL : of[1].buf, model->nodes = of[2].buf, model->trees = of[3].buf;
    model->mix = of[4].buf, model->bias = of[5].buf, model->favour = of[6].buf;
    model->count = (size_t)of[2].len / sizeof(Node), model->size = (size_t)of[3].len / sizeof(Tree);
    const int sized = grams->bits <= LARGEST_BITS && grams->bits >= 10 && of[0].len == 8 << (grams->bits - 5)
                      && of[4].len == 72 && of[5].len == 24 && of[6].len == 24;
    if (sized) {
        const Block32 last = model->blocks[((size_t)1 << grams->bits >> 5) - 1];
        model->columns = last.before + bits_of(last.kept);
    }
    const char *fault = !entries ? "the missing table of code points"
                        : !sized ? "blocks, mix, bias or favour"
                        : model->rows && (size_t)of[1].len / 16 != model->columns ? "rows"
                                                                                  : fault_of(model);
    if (fault) {
        PyErr_Format(PyExc_ValueError, "%s", fault);
        Py_DecRef((PyObject *)self);
        return NULL;
    }
    for (int i = 1; i < 64; i++)
        logs[i] = 1 + (float)log(i);
    self->scratch = scratch_for(model);
    return (PyObject *)self;
}

static void scorer_dealloc(PyObject *object)
{
    Scorer *self = (Scorer *)object;
    PyTypeObject *type = Py_TYPE(object);
    end_scratch(&self->scratch);
    for (int i = 0; i < PARTS; i++)
        PyBuffer_Release(self->of + i);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DecRef((PyObject *)type);
}

/* The label and the three probabilities of a str. */
static PyObject *scorer_one(PyObject *object, PyObject *string)
{
    Scorer *self = (Scorer *)object;
    Text text;
    uint8_t label = 0;
    double probabilities[3];
    int failed;
    if (!text_of(string, &text, 0))
        return NULL;
    if (text.size <= LONG_TEXT)
        failed = score(&self->model, &self->scratch, text, &label, probabilities);
    else {
        Py_BEGIN_ALLOW_THREADS
        Scratch own = scratch_for(&self->model);
        failed = score(&self->model, &own, text, &label, probabilities);
        end_scratch(&own);
        Py_END_ALLOW_THREADS
    }
    if (failed)
        return refused(failed, 0);
    PyObject *answer = PyTuple_New(4);
    for (Py_ssize_t i = 0; answer && i < 4; i++) {
        PyObject *number = i ? PyFloat_FromDouble(probabilities[i - 1]) : PyLong_FromLong(label);
        if (!number || PyTuple_SetItem(answer, i, number)) {
            Py_DecRef(answer);
            return NULL;
        }
    }
    return answer;
}

/* Score texts, given as `count` of the kernel takes them, into arrays of labels and of probabilities. */
static PyObject *scorer_many(PyObject *object, PyObject *arguments)
{
    const Model *model = &((Scorer *)object)->model;
    PyObject *given;
    Py_buffer data, bounds = {0}, labels, probabilities;
    Py_ssize_t first, count, row = 0;
    if (!PyArg_ParseTuple(arguments, "Oz*nw*w*", &given, &data, &first, &labels, &probabilities))
        return NULL;
    Text *texts = texts_of(given, &data, &bounds, first, &count);
    if (texts && (labels.len != count || probabilities.len != 24 * count))
        PyErr_SetString(PyExc_ValueError, "the arrays do not fit");
    else if (texts) {
        int failed = OK;
        Py_BEGIN_ALLOW_THREADS
        Scratch scratch = scratch_for(model);
        for (; row < count && !failed; row += !failed)
            failed = score(model, &scratch, texts[row], (uint8_t *)labels.buf + row, (double *)probabilities.buf + 3 * row);
        end_scratch(&scratch);
        Py_END_ALLOW_THREADS
        if (failed)
            refused(failed, first + row);
    }
    PyMem_Free(texts), PyBuffer_Release(&data), PyBuffer_Release(&bounds);
    PyBuffer_Release(&labels), PyBuffer_Release(&probabilities);
    return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
}

/* Rows of JSON for labels and probabilities, whose ids begin with a prefix and count from `first`. */
static PyObject *scorer_rendered(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    Py_buffer labels, probabilities, prefix;
    unsigned long long first;
    PyObject *answer = NULL;
    if (!PyArg_ParseTuple(arguments, "y*y*y*K", &labels, &probabilities, &prefix, &first))
        return NULL;
    char *text = NULL, *end = NULL;
    if (probabilities.len == 24 * labels.len && prefix.len < 1024
        && (text = PyMem_Malloc((size_t)labels.len * (LONGEST_ROW + (size_t)prefix.len) + 1)))
        end = render(text, labels.buf, probabilities.buf, (size_t)labels.len, prefix.buf, (size_t)prefix.len, first);
    if (end)
        answer = PyBytes_FromStringAndSize(text, end - text);
    else
        PyErr_SetString(PyExc_ValueError, "labels and probabilities do not fit together, or are none");
    PyMem_Free(text), PyBuffer_Release(&labels), PyBuffer_Release(&probabilities), PyBuffer_Release(&prefix);
    return answer;
}

/* The places in a list of str of those that may be no texts to judge: too long, with NUL or half a surrogate pair, or
 * that do not begin with a visible character of ASCII. */
static PyObject *scorer_suspects(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    PyObject *strings, *found;
    Py_ssize_t most, size;
    if (!PyArg_ParseTuple(arguments, "On", &strings, &most) || !(found = PyList_New(0)))
        return NULL;
    for (Py_ssize_t row = 0; row < PyList_Size(strings); row++) {
        const char *data = PyUnicode_AsUTF8AndSize(PyList_GetItem(strings, row), &size);
        if (data && size && *data > ' ' && *data <= '~' && size <= most && !memchr(data, 0, (size_t)size))
            continue;
        PyErr_Clear();
        PyObject *number = PyLong_FromSsize_t(row);
        const int failed = !number || PyList_Append(found, number);
        Py_XDECREF(number);
        if (failed) {
            Py_DECREF(found);
            return NULL;
        }
    }
    return PyErr_Occurred() ? NULL : found;
}

static PyMethodDef of_scorer[] = {
    {"one", scorer_one, METH_O, NULL},
    {"many", scorer_many, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, (void *)scorer_new},
    {Py_tp_dealloc, (void *)scorer_dealloc},
    {Py_tp_methods, of_scorer},
    {0, NULL},
};

static PyType_Spec spec = {"mobile_sentiment_ops.models._scorer.Scorer", sizeof(Scorer), 0, Py_TPFLAGS_DEFAULT, slots};

static PyMethodDef methods[] = {
    {"load", kernel_load, METH_VARARGS, NULL},
    {"rendered", scorer_rendered, METH_VARARGS, NULL},
    {"suspects", scorer_suspects, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "_scorer", .m_size = -1, .m_methods = methods};

PyMODINIT_FUNC PyInit__scorer(void)
{
#ifdef __POPCNT__
    unsigned of[4];
    if (!__get_cpuid(1, of, of + 1, of + 2, of + 3) || !(of[2] & bit_POPCNT)) /* it is of before 2009 */
        return PyErr_Format(PyExc_ImportError, "this processor cannot count bits");
#endif
    PyObject *module = PyModule_Create(&definition), *type = module ? PyType_FromSpec(&spec) : NULL;
    if (type && PyModule_AddObjectRef(module, "Scorer", type)) {
        Py_DecRef(type);
        return NULL;
    }
    Py_DecRef(type);
    return type ? module : NULL;
}
#endif
