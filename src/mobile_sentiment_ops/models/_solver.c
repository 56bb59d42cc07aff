/* Four linear problems at once: the dual descent that trains the linear kinds, and the sums that score with them.
 *
 *     descend    passes over the rows in random order, each row's four dual variables moved to their best (Hsieh et
 *                al. 2008 for the squared hinge, Yu et al. 2011 for logistic loss); one weight of a feature is four
 *                numbers that lie together, so all four problems cost little more than one
 *     margins    weights of the features of each row, added up
 *
 * Rows are sparse: row i has columns[starts[i]] to columns[starts[i + 1]] with their values. The last weight is that of
 * a constant 1. Arithmetic is plain float32 in a fixed order, so the same rows and seed give the same weights. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>

typedef float f4 __attribute__((vector_size(16), aligned(4)));
typedef int32_t i4 __attribute__((vector_size(16), aligned(4)));

typedef struct {
    int64_t count, features;
    const int64_t *starts;
    const int32_t *columns;
    const float *values;
} Rows;

static inline f4 all(float value)
{
    return (f4){value, value, value, value};
}

static inline f4 choose(i4 where, f4 one, f4 other)
{
    return (f4)((where & (i4)one) | (~where & (i4)other));
}

/* e^x of -80 to 80, right to about 1e-7: by the power of two next to it and a polynomial for the rest. */
static inline f4 exponential(f4 x)
{
    f4 twos = x * 1.44269504f;
    i4 whole = __builtin_convertvector(twos + choose(twos < 0, all(-0.5f), all(0.5f)), i4);
    f4 r = (twos - __builtin_convertvector(whole, f4)) * 0.69314718f;
    f4 rest = 1 + r * (1 + r * (0.5f + r * (0.16666667f + r * (0.041666668f + r * (0.008333334f + r * 0.001388889f)))));
    return (f4)((i4)rest + (whole << 23));
}

static inline f4 margins_of(const Rows *rows, int64_t row, const f4 *weights)
{
    f4 sum = weights[rows->features];
    for (int64_t at = rows->starts[row]; at < rows->starts[row + 1]; at++)
        sum += rows->values[at] * weights[rows->columns[at]];
    return sum;
}

/* `signs` are 1, -1 or 0 (no say) of each row and problem; `freedom` of a feature, or NULL for 1, is how far its weight
 * moves for a unit of dual. Returns the epochs made, or -1 without memory. */
static int descend(const Rows *rows, const f4 *signs, f4 *weights, const f4 *freedom, float cost, int logistic,
                   int epochs, float tolerance, uint64_t seed)
{
    const int64_t count = rows->count;
    const size_t room = (size_t)count + 1;
    int64_t *order = malloc(room * sizeof *order);
    f4 *squares = malloc(room * sizeof *squares), *duals = calloc(room, sizeof *duals);
    int epoch = order && squares && duals ? 0 : -1;
    double first = 0, moved = 0;
    for (int64_t row = 0; row < count && !epoch; row++) {
        f4 sum = all(1);
        for (int64_t at = rows->starts[row]; at < rows->starts[row + 1]; at++) {
            f4 square = all(rows->values[at] * rows->values[at]);
            sum += freedom ? square * freedom[rows->columns[at]] : square;
        }
        squares[row] = sum, order[row] = row;
    }
    for (; epoch >= 0 && epoch < epochs && (epoch < 2 || moved >= tolerance * first); epoch++) {
        moved = 0;
        for (int64_t left = count - 1; left > 0; left--) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            int64_t other = (int64_t)((seed >> 33) % (uint64_t)(left + 1)), row = order[left];
            order[left] = order[other], order[other] = row;
        }
        for (int64_t next = 0; next < count; next++) {
            const int64_t row = order[next];
            const f4 sign = signs[row], margin = sign * margins_of(rows, row, weights), square = squares[row];
            f4 step;
            if (logistic) { /* duals hold the logit of dual / cost, found by two steps of Newton */
                f4 logit = epoch ? duals[row] : -margin, before = epoch ? cost / (1 + exponential(-logit)) : all(0);
                for (int i = 0; i < 2; i++) {
                    f4 dual = cost / (1 + exponential(-logit));
                    logit -= (logit + square * (dual - before) + margin) / (1 + square * dual * (cost - dual) / cost);
                    logit = choose(logit > 15, all(15), choose(logit < -15, all(-15), logit));
                }
                duals[row] = logit;
                step = cost / (1 + exponential(-logit)) - before;
            } else {
                f4 soft = all(0.5f / cost), dual = duals[row] - (margin - 1 + soft * duals[row]) / (square + soft);
                dual = choose(dual > 0, dual, all(0));
                step = dual - duals[row];
                duals[row] = dual;
            }
            step *= sign;
            float size = fabsf(step[0]) + fabsf(step[1]) + fabsf(step[2]) + fabsf(step[3]);
            if (size == 0)
                continue;
            moved += size;
            weights[rows->features] += step;
            for (int64_t at = rows->starts[row]; at < rows->starts[row + 1]; at++) {
                f4 change = rows->values[at] * step;
                weights[rows->columns[at]] += freedom ? change * freedom[rows->columns[at]] : change;
            }
        }
        if (!epoch)
            first = moved;
    }
    free(order), free(squares), free(duals);
    return epoch;
}

/* --- module */

#ifndef SOLVER_CORE_ONLY
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

enum { VECTOR = sizeof(f4) };

/* Whether the buffers fit together: starts rise inside of the entries, columns are features. */
static int usable(Rows *rows, Py_buffer *starts, Py_buffer *columns, Py_buffer *values, Py_buffer *weights)
{
    const int64_t entries = columns->len / 4;
    const char *fault = NULL;
    *rows = (Rows){starts->len / 8 - 1, weights->len / VECTOR - 1, starts->buf, columns->buf, values->buf};
    if (rows->count < 0 || rows->features < 0 || values->len != columns->len)
        fault = "starts and weights hold one number more than rows and features, values as many as columns";
    for (int64_t row = 0; !fault && row < rows->count; row++)
        if (rows->starts[row] < 0 || rows->starts[row + 1] < rows->starts[row] || rows->starts[row + 1] > entries)
            fault = "starts do not rise inside of the columns";
    for (int64_t at = 0; !fault && at < entries; at++)
        if (rows->columns[at] < 0 || rows->columns[at] >= rows->features)
            fault = "a column is no feature";
    if (fault)
        PyErr_SetString(PyExc_ValueError, fault);
    return !fault;
}

static PyObject *module_descend(PyObject *module, PyObject *arguments)
{
    Py_buffer starts, columns, values, signs, weights, freedom;
    float cost, tolerance;
    int logistic, epochs, made = 0;
    unsigned long long seed;
    Rows rows;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "y*y*y*y*w*z*fpifK", &starts, &columns, &values, &signs, &weights, &freedom, &cost,
                          &logistic, &epochs, &tolerance, &seed))
        return NULL;
    if (usable(&rows, &starts, &columns, &values, &weights)) {
        if (signs.len != rows.count * VECTOR || (freedom.buf && freedom.len != rows.features * VECTOR) || !(cost > 0))
            PyErr_SetString(PyExc_ValueError, "signs are four a row, freedom four a feature, and cost is above 0");
        else {
            Py_BEGIN_ALLOW_THREADS
            made = descend(&rows, signs.buf, weights.buf, freedom.buf, cost, logistic, epochs, tolerance, seed);
            Py_END_ALLOW_THREADS
            if (made < 0)
                PyErr_NoMemory();
        }
    }
    PyBuffer_Release(&starts), PyBuffer_Release(&columns), PyBuffer_Release(&values);
    PyBuffer_Release(&signs), PyBuffer_Release(&weights), PyBuffer_Release(&freedom);
    return PyErr_Occurred() ? NULL : PyLong_FromLong(made);
}

static PyObject *module_margins(PyObject *module, PyObject *arguments)
{
    Py_buffer starts, columns, values, weights, sums;
    Rows rows;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "y*y*y*y*w*", &starts, &columns, &values, &weights, &sums))
        return NULL;
    if (usable(&rows, &starts, &columns, &values, &weights)) {
        if (sums.len != rows.count * VECTOR)
            PyErr_SetString(PyExc_ValueError, "sums are four a row");
        else {
            Py_BEGIN_ALLOW_THREADS
            for (int64_t row = 0; row < rows.count; row++)
                ((f4 *)sums.buf)[row] = margins_of(&rows, row, weights.buf);
            Py_END_ALLOW_THREADS
        }
    }
    PyBuffer_Release(&starts), PyBuffer_Release(&columns), PyBuffer_Release(&values);
    PyBuffer_Release(&weights), PyBuffer_Release(&sums);
    return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
}

static PyMethodDef methods[] = {
    {"descend", module_descend, METH_VARARGS, "Move weights towards the best for these rows; the epochs it took."},
    {"margins", module_margins, METH_VARARGS, "Write the sums of four weights of each row's features."},
    {0},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "_solver", .m_size = -1, .m_methods = methods};

PyMODINIT_FUNC PyInit__solver(void)
{
    return PyModule_Create(&definition);
}
#endif
