/* Printing a graph: one line a node, or Graphviz. */
#include <inttypes.h>

#include "graph/graph.h"

static void print_title(const tn_graph *graph, int32_t id, FILE *out)
{
    const tn_value *value = graph->value[id];
    fprintf(out, "%s", value->op->name);
    if (value->name) fprintf(out, " '%s'", value->name);
    double fill;
    if (tn_is_fill((tn_node){(tn_graph *)graph, id}, &fill)) fprintf(out, " %g", fill);
    if (value->op->id == TN_OP_RESULT)
        fprintf(out, " %d", ((const tn_result_attribute *)value->attribute)->index);
}

void tn_graph_print(const tn_graph *graph, FILE *out)
{
    for (int32_t id = 1; id < graph->count; id++) {
        const tn_value *value = graph->value[id];
        fprintf(out, "%%%" PRId32 " = ", id);
        print_title(graph, id, out);
        fprintf(out, "(");
        for (int i = 0; i < value->in_count; i++)
            fprintf(out, "%s%%%" PRId32, i ? ", " : "", value->in[i]);
        fprintf(out, ") : %s %s", tn_dtype_name(value->dtype), tn_shape_text(value->shape));
        if (value->file) fprintf(out, "  # %s:%d", value->file, value->line);
        fprintf(out, "\n");
    }
}

void tn_graph_print_dot(const tn_graph *graph, FILE *out)
{
    fprintf(out, "digraph tenon {\n  node [shape=box, fontname=\"Helvetica\", fontsize=10];\n");
    for (int32_t id = 1; id < graph->count; id++) {
        const tn_value *value = graph->value[id];
        fprintf(out, "  n%" PRId32 " [label=\"", id);
        print_title(graph, id, out);
        fprintf(out, "\\n%s %s\"%s];\n", tn_dtype_name(value->dtype), tn_shape_text(value->shape),
                value->op->id == TN_OP_STATE || value->op->id == TN_OP_INPUT
                    ? ", style=filled, fillcolor=lightgrey"
                    : "");
        for (int i = 0; i < value->in_count; i++)
            fprintf(out, "  n%" PRId32 " -> n%" PRId32 ";\n", value->in[i], id);
    }
    fprintf(out, "}\n");
}
