/* What machine this is. */
#include "tenon/machine.h"

#include <dnnl.h>
#include <jansson.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/status.h"
#include "base/threads.h"

#ifdef __x86_64__
#include <cpuid.h>
#endif

static const char *const isa_name[] = {
    [TN_ISA_BASE] = "base", [TN_ISA_V2] = "v2", [TN_ISA_V3] = "v3", [TN_ISA_V4] = "v4"};

const char *tn_isa_name(tn_isa isa)
{
    return isa >= TN_ISA_BASE && isa <= TN_ISA_V4 ? isa_name[isa] : "unknown";
}

/* Levels as the x86-64 psABI defines them. The compiler's __builtin_cpu_supports also asks whether
 * the system saves the wide registers; three features that clang 14 does not know by name are read
 * from cpuid. */
tn_isa tn_isa_found(void)
{
#ifdef __x86_64__
    unsigned a, b, c = 0, d, extended = 0;
    __get_cpuid(1, &a, &b, &c, &d);
    __get_cpuid(0x80000001, &a, &b, &extended, &d);
    bool f16c = c >> 29 & 1, movbe = c >> 22 & 1, lzcnt = extended >> 5 & 1;
    if (!__builtin_cpu_supports("ssse3") || !__builtin_cpu_supports("sse4.2") ||
        !__builtin_cpu_supports("popcnt"))
        return TN_ISA_BASE;
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") ||
        !__builtin_cpu_supports("bmi") || !__builtin_cpu_supports("bmi2") || !f16c || !movbe ||
        !lzcnt)
        return TN_ISA_V2;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512cd") || !__builtin_cpu_supports("avx512dq") ||
        !__builtin_cpu_supports("avx512vl"))
        return TN_ISA_V3;
    return TN_ISA_V4;
#else
    return TN_ISA_BASE;
#endif
}

tn_status tn_isa_chosen(tn_isa *isa)
{
    tn_isa found = tn_isa_found();
    *isa = found;
    const char *wish = getenv("TENON_ISA");
    if (!wish || !*wish) return TN_OK;
    for (tn_isa level = TN_ISA_BASE; level <= TN_ISA_V4; level++) {
        if (strcmp(wish, isa_name[level]) != 0) continue;
        if (level > found)
            return tn_fail(TN_UNSUPPORTED, "TENON_ISA=%s: this machine has no more than %s", wish,
                           isa_name[found]);
        *isa = level;
        return TN_OK;
    }
    return tn_fail(TN_INVALID, "TENON_ISA=%s is no instruction set level; use base, v2, v3 or v4",
                   wish);
}

/* Finds the first line of `path` that begins with `key` and copies what stands behind `separator`,
 * less quotes and spaces around it. */
static void line_value(const char *path, const char *key, char separator, char *out, size_t room)
{
    FILE *file = fopen(path, "r");
    char line[512];
    while (file && fgets(line, sizeof line, file)) {
        if (strncmp(line, key, strlen(key)) != 0) continue;
        char *value = strchr(line, separator);
        if (!value) continue;
        value += 1 + strspn(value + 1, " \t\"");
        size_t length = strlen(value);
        while (length > 0 && strchr(" \t\n\"", value[length - 1])) length--;
        snprintf(out, room, "%.*s", (int)length, value);
        break;
    }
    if (file) fclose(file);
}

/* The number in a file of the control group, or INT64_MAX ("max", or no such file). */
static int64_t control_group_number(const char *path)
{
    long long number = 0;
    FILE *file = fopen(path, "r");
    bool found = file && fscanf(file, "%lld", &number) == 1 && number > 0;
    if (file) fclose(file);
    return found ? (int64_t)number : INT64_MAX;
}

static int64_t memory_size(void)
{
    int64_t size = (int64_t)sysconf(_SC_PHYS_PAGES) * (int64_t)sysconf(_SC_PAGESIZE);
    static const char *const limit[] = {"/sys/fs/cgroup/memory.max",
                                        "/sys/fs/cgroup/memory/memory.limit_in_bytes"};
    for (int i = 0; i < 2; i++) {
        int64_t allowed = control_group_number(limit[i]);
        if (allowed < size) size = allowed;
    }
    return size;
}

static int processor_count(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
    return (int)sysconf(_SC_NPROCESSORS_ONLN);
}

static int64_t cache_size(int name)
{
    long size = sysconf(name);
    return size > 0 ? size : 0;
}

void tn_machine_describe(tn_machine *machine)
{
    *machine = (tn_machine){
        .processors = processor_count(),
        .threads = tn_thread_count(),
        .isa = tn_isa_found(),
        .memory = memory_size(),
        .l1 = cache_size(_SC_LEVEL1_DCACHE_SIZE),
        .l2 = cache_size(_SC_LEVEL2_CACHE_SIZE),
        .l3 = cache_size(_SC_LEVEL3_CACHE_SIZE),
        .jansson = JANSSON_VERSION,
    };
    line_value("/proc/cpuinfo", "model name", ':', machine->processor, sizeof machine->processor);
    line_value("/etc/os-release", "PRETTY_NAME", '=', machine->system, sizeof machine->system);
#ifdef __clang__
    snprintf(machine->compiler, sizeof machine->compiler, "clang %d.%d.%d", __clang_major__,
             __clang_minor__, __clang_patchlevel__);
#elif defined(__GNUC__)
    snprintf(machine->compiler, sizeof machine->compiler, "gcc %d.%d.%d", __GNUC__, __GNUC_MINOR__,
             __GNUC_PATCHLEVEL__);
#endif
    const dnnl_version_t *version = dnnl_version();
    snprintf(machine->onednn, sizeof machine->onednn, "%d.%d.%d", version->major, version->minor,
             version->patch);
}
