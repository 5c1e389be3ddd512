/* Groups, and collectives made of the two that a transport has. */
#include "mesh/mesh.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"

int tn_mesh_size(const tn_mesh *m) { return m->dim[0] * m->dim[1] * m->dim[2]; }

/* Number of a rank among those that differ in the axes given. */
static int number(const tn_mesh *m, int axes)
{
    int n = 0;
    for (int i = 0; i < 3; i++)
        if (axes >> i & 1) n = n * m->dim[i] + m->at[i];
    return n;
}

int tn_mesh_rank(const tn_mesh *m) { return number(m, TN_AXES_ALL); }

int tn_mesh_group_size(const tn_mesh *m, int axes)
{
    int size = 1;
    for (int i = 0; i < 3; i++)
        if (axes >> i & 1) size *= m->dim[i];
    return size;
}

int tn_mesh_group_rank(const tn_mesh *m, int axes) { return number(m, axes); }

int tn_mesh_group(const tn_mesh *m, int axes) { return number(m, TN_AXES_ALL & ~axes); }

/* ---- collectives ----------------------------------------------------------------------------- */

static tn_status scratch(tn_mesh *m, size_t size, void **out)
{
    if (size > m->scratch_size) {
        free(m->scratch);
        m->scratch = malloc(size);
        m->scratch_size = m->scratch ? size : 0;
        if (!m->scratch)
            return tn_fail(TN_MEMORY, "out of memory for a collective of %zu bytes", size);
    }
    *out = m->scratch;
    return TN_OK;
}

static void count(tn_mesh *m, tn_collective kind, int members, size_t bytes)
{
    m->received[kind] += (uint64_t)(members - 1) * bytes;
}

tn_status tn_mesh_all_gather(tn_mesh *m, int axes, const void *part, size_t bytes, void *whole)
{
    int k = tn_mesh_group_size(m, axes);
    unsigned char *own = (unsigned char *)whole + (size_t)tn_mesh_group_rank(m, axes) * bytes;
    if (own != part) memmove(own, part, bytes);
    if (k == 1 || !bytes) return TN_OK;
    TN_TRY(m->transport->all_gather(m, axes, own, bytes, whole));
    count(m, TN_ALL_GATHER, k, bytes);
    return TN_OK;
}

/* The pieces of all members arrive side by side and are added in their order. */
static tn_status reduce_scatter(tn_mesh *m, int axes, const float *whole, int64_t each, float *part,
                                tn_collective kind)
{
    int k = tn_mesh_group_size(m, axes);
    size_t bytes, all;
    void *pieces = NULL;
    if (!tn_mul_size((size_t)each, sizeof(float), &bytes) || !tn_mul_size(bytes, (size_t)k, &all))
        return tn_fail(TN_MEMORY, "a collective of %lld numbers", (long long)each);
    if (k == 1 || !bytes) {
        memmove(part, whole, bytes);
        return TN_OK;
    }
    TN_TRY(scratch(m, all, &pieces));
    TN_TRY(m->transport->all_to_all(m, axes, whole, bytes, pieces));
    memcpy(part, pieces, bytes);
    for (int i = 1; i < k; i++) {
        const float *piece = (const float *)pieces + i * each;
        for (int64_t j = 0; j < each; j++) part[j] += piece[j];
    }
    count(m, kind, k, bytes);
    return TN_OK;
}

tn_status tn_mesh_reduce_scatter(tn_mesh *m, int axes, const float *whole, int64_t each,
                                 float *part)
{
    return reduce_scatter(m, axes, whole, each, part, TN_REDUCE_SCATTER);
}

tn_status tn_mesh_all_reduce(tn_mesh *m, int axes, float *x, int64_t each)
{
    int64_t k = tn_mesh_group_size(m, axes), part = (each + k - 1) / k;
    if (k == 1 || each == 0) return TN_OK;
    float *padded = calloc((size_t)(part * k), sizeof *padded);
    if (!padded)
        return tn_fail(TN_MEMORY, "out of memory for a sum of %lld numbers", (long long)each);
    memcpy(padded, x, (size_t)each * sizeof *x);
    float *own = padded + tn_mesh_group_rank(m, axes) * part;
    tn_status status = reduce_scatter(m, axes, padded, part, own, TN_ALL_REDUCE);
    if (status == TN_OK)
        status = m->transport->all_gather(m, axes, own, (size_t)part * sizeof *x, padded);
    if (status == TN_OK) {
        count(m, TN_ALL_REDUCE, (int)k, (size_t)part * sizeof *x);
        memcpy(x, padded, (size_t)each * sizeof *x);
    }
    free(padded);
    return status;
}

tn_status tn_mesh_all_to_all(tn_mesh *m, int axes, const void *from, size_t bytes, void *to)
{
    int k = tn_mesh_group_size(m, axes);
    if (k == 1 || !bytes) {
        memcpy(to, from, bytes);
        return TN_OK;
    }
    TN_TRY(m->transport->all_to_all(m, axes, from, bytes, to));
    count(m, TN_MESH_ALL_TO_ALL, k, bytes);
    return TN_OK;
}
