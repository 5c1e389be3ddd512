/* Verbs that look at models and texts. */
#ifndef TN_CLI_INFER_TOOLS_H
#define TN_CLI_INFER_TOOLS_H

int cli_infer_score(int argc, char **argv);
int cli_infer_tokenize(int argc, char **argv);
int cli_infer_detokenize(int argc, char **argv);
int cli_infer_inspect(int argc, char **argv);
int cli_infer_convert(int argc, char **argv);

#endif
