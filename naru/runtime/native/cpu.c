/* What this machine is: features (spelled as LLVM spells them), caches, cores, limits. */
#include "host.h"

#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <time.h>
#include <unistd.h>

NARU_HOST int64_t naru_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* ---- features ---- */

#if defined(__x86_64__)
#include <cpuid.h>

enum { EAX, EBX, ECX, EDX };
/* Register state that the kernel must save for the feature to be usable (bits of XCR0). */
enum { NONE = 0, YMM = 0x6, ZMM = 0xe6, TILE = 0x60000 };

typedef struct {
    const char *name;
    uint32_t leaf, subleaf;
    uint8_t reg, bit;
    uint32_t state;
} feature;

static const feature FEATURES[] = {
    {"cx8", 1, 0, EDX, 8, NONE},
    {"cmov", 1, 0, EDX, 15, NONE},
    {"mmx", 1, 0, EDX, 23, NONE},
    {"fxsr", 1, 0, EDX, 24, NONE},
    {"sse", 1, 0, EDX, 25, NONE},
    {"sse2", 1, 0, EDX, 26, NONE},
    {"sse3", 1, 0, ECX, 0, NONE},
    {"pclmul", 1, 0, ECX, 1, NONE},
    {"ssse3", 1, 0, ECX, 9, NONE},
    {"fma", 1, 0, ECX, 12, YMM},
    {"cx16", 1, 0, ECX, 13, NONE},
    {"sse4.1", 1, 0, ECX, 19, NONE},
    {"sse4.2", 1, 0, ECX, 20, NONE},
    {"crc32", 1, 0, ECX, 20, NONE},
    {"movbe", 1, 0, ECX, 22, NONE},
    {"popcnt", 1, 0, ECX, 23, NONE},
    {"aes", 1, 0, ECX, 25, NONE},
    {"xsave", 1, 0, ECX, 26, NONE},
    {"avx", 1, 0, ECX, 28, YMM},
    {"f16c", 1, 0, ECX, 29, YMM},
    {"rdrnd", 1, 0, ECX, 30, NONE},
    {"sahf", 0x80000001, 0, ECX, 0, NONE},
    {"lzcnt", 0x80000001, 0, ECX, 5, NONE},
    {"prfchw", 0x80000001, 0, ECX, 8, NONE},
    {"fsgsbase", 7, 0, EBX, 0, NONE},
    {"bmi", 7, 0, EBX, 3, NONE},
    {"avx2", 7, 0, EBX, 5, YMM},
    {"bmi2", 7, 0, EBX, 8, NONE},
    {"avx512f", 7, 0, EBX, 16, ZMM},
    {"avx512dq", 7, 0, EBX, 17, ZMM},
    {"rdseed", 7, 0, EBX, 18, NONE},
    {"adx", 7, 0, EBX, 19, NONE},
    {"avx512ifma", 7, 0, EBX, 21, ZMM},
    {"avx512cd", 7, 0, EBX, 28, ZMM},
    {"sha", 7, 0, EBX, 29, NONE},
    {"avx512bw", 7, 0, EBX, 30, ZMM},
    {"avx512vl", 7, 0, EBX, 31, ZMM},
    {"avx512vbmi", 7, 0, ECX, 1, ZMM},
    {"avx512vbmi2", 7, 0, ECX, 6, ZMM},
    {"gfni", 7, 0, ECX, 8, NONE},
    {"vaes", 7, 0, ECX, 9, YMM},
    {"vpclmulqdq", 7, 0, ECX, 10, YMM},
    {"avx512vnni", 7, 0, ECX, 11, ZMM},
    {"avx512bitalg", 7, 0, ECX, 12, ZMM},
    {"avx512vpopcntdq", 7, 0, ECX, 14, ZMM},
    {"amx-bf16", 7, 0, EDX, 22, TILE},
    {"avx512fp16", 7, 0, EDX, 23, ZMM},
    {"amx-tile", 7, 0, EDX, 24, TILE},
    {"amx-int8", 7, 0, EDX, 25, TILE},
    {"avxvnni", 7, 1, EAX, 4, YMM},
    {"avx512bf16", 7, 1, EAX, 5, ZMM},
    {"amx-fp16", 7, 1, EAX, 21, TILE},
    {"avxifma", 7, 1, EAX, 23, YMM},
    {"avxvnniint8", 7, 1, EDX, 4, YMM},
    {"avxneconvert", 7, 1, EDX, 5, YMM},
    {"amx-complex", 7, 1, EDX, 8, TILE},
    {"avxvnniint16", 7, 1, EDX, 10, YMM},
};

static uint64_t saved_state(void)
{
    uint32_t r[4];
    if (!__get_cpuid(1, &r[EAX], &r[EBX], &r[ECX], &r[EDX]) || !(r[ECX] >> 27 & 1))
        return 0; /* no OSXSAVE: xgetbv would trap */
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

static int is_present(const feature *f)
{
    uint32_t r[4];
    if (!__get_cpuid_count(f->leaf, f->subleaf, &r[EAX], &r[EBX], &r[ECX], &r[EDX]))
        return 0;
    if (f->subleaf) { /* CPUs answer any subleaf; only those up to EAX of subleaf 0 mean something */
        uint32_t top[4] = {0};
        __get_cpuid_count(f->leaf, 0, &top[EAX], &top[EBX], &top[ECX], &top[EDX]);
        if (top[EAX] < f->subleaf)
            return 0;
    }
    return (r[f->reg] >> f->bit & 1) && (saved_state() & f->state) == f->state;
}

NARU_HOST int naru_request_amx(void)
{
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    static _Atomic int granted = -1;
    int known = atomic_load_explicit(&granted, memory_order_relaxed);
    if (known < 0) {
        known = naru_cpu_has("amx-tile")
                && syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
        atomic_store_explicit(&granted, known, memory_order_relaxed);
    }
    return known;
}

#elif defined(__aarch64__)
#include <sys/auxv.h>

typedef struct {
    const char *name;
    uint8_t word, bit; /* word 0: AT_HWCAP, 1: AT_HWCAP2 */
} feature;

static const feature FEATURES[] = {
    {"fp-armv8", 0, 0}, {"neon", 0, 1},     {"aes", 0, 3},      {"sha2", 0, 6},
    {"crc", 0, 7},      {"lse", 0, 8},      {"fullfp16", 0, 10}, {"rdm", 0, 12},
    {"jsconv", 0, 13},  {"complxnum", 0, 14}, {"rcpc", 0, 15},  {"sha3", 0, 17},
    {"dotprod", 0, 20}, {"sve", 0, 22},     {"fp16fml", 0, 23}, {"sve2", 1, 1},
    {"i8mm", 1, 13},    {"bf16", 1, 14},    {"sme", 1, 23},
};

static int is_present(const feature *f)
{
    return getauxval(f->word ? AT_HWCAP2 : AT_HWCAP) >> f->bit & 1;
}

NARU_HOST int naru_request_amx(void) { return 0; }

#else
typedef struct {
    const char *name;
} feature;
static const feature FEATURES[] = {{NULL}};
static int is_present(const feature *f) { return f->name != NULL; }
NARU_HOST int naru_request_amx(void) { return 0; }
#endif

enum { FEATURE_COUNT = sizeof FEATURES / sizeof *FEATURES };

/* Asked once: on a virtual machine each cpuid costs some 20 us. */
static int has(int index)
{
    static _Atomic signed char known[FEATURE_COUNT]; /* 0: not asked, 1: present, -1: absent */
    int found = atomic_load_explicit(&known[index], memory_order_relaxed);
    if (!found) {
        found = is_present(&FEATURES[index]) ? 1 : -1;
        atomic_store_explicit(&known[index], (signed char)found, memory_order_relaxed);
    }
    return found > 0;
}

NARU_HOST int naru_cpu_has(const char *name)
{
    for (int k = 0; k < FEATURE_COUNT; k++)
        if (FEATURES[k].name && !strcmp(FEATURES[k].name, name))
            return has(k);
    return 0;
}

NARU_HOST const char *naru_cpu_feature(int k, int *present)
{
    if (k < 0 || k >= FEATURE_COUNT || !FEATURES[k].name)
        return NULL;
    *present = has(k);
    return FEATURES[k].name;
}

/* ---- files of /sys and /proc ---- */

/* First line of a file, without its end; 0 when it cannot be read. */
static int read_line(const char *path, char *line, int size)
{
    FILE *file = fopen(path, "re");
    if (!file)
        return 0;
    int ok = fgets(line, size, file) != NULL;
    fclose(file);
    if (ok)
        line[strcspn(line, "\n")] = 0;
    return ok;
}

NARU_HOST int naru_cache(int k, char name[40], long long *bytes)
{
    char path[128], level[16], type[32], size[32];
    const char *dir = "/sys/devices/system/cpu/cpu0/cache";
    snprintf(path, sizeof path, "%s/index%d/level", dir, k);
    if (!read_line(path, level, sizeof level))
        return 0;
    snprintf(path, sizeof path, "%s/index%d/type", dir, k);
    if (!read_line(path, type, sizeof type))
        return 0;
    snprintf(path, sizeof path, "%s/index%d/size", dir, k);
    if (!read_line(path, size, sizeof size))
        return 0;
    char *unit;
    *bytes = strtoll(size, &unit, 10);
    *bytes *= *unit == 'K' ? 1 << 10 : *unit == 'M' ? 1 << 20 : 1;
    const char *kind = type[0] == 'D' ? "d" : type[0] == 'I' ? "i" : "";
    snprintf(name, 40, "l%s%s", level, kind);
    return 1;
}

NARU_HOST int64_t naru_memory_limit(void)
{
    static _Atomic int64_t known; /* host.alloc asks often */
    int64_t limit = atomic_load_explicit(&known, memory_order_relaxed);
    if (!limit) {
        struct sysinfo info;
        limit = sysinfo(&info) == 0
                    ? (int64_t)(((uint64_t)info.totalram + info.totalswap) * info.mem_unit)
                    : INT64_MAX;
        atomic_store_explicit(&known, limit, memory_order_relaxed);
    }
    return limit;
}

/* ---- CPU quota of the control group (v2, then v1) ---- */

static double quota_in(const char *folder, int version)
{
    char path[512], line[64];
    long long quota, period;
    if (version == 2) {
        snprintf(path, sizeof path, "%s/cpu.max", folder);
        if (read_line(path, line, sizeof line) && sscanf(line, "%lld %lld", &quota, &period) == 2
            && quota > 0 && period > 0)
            return (double)quota / (double)period;
        return 0;
    }
    snprintf(path, sizeof path, "%s/cpu.cfs_quota_us", folder);
    if (!read_line(path, line, sizeof line) || (quota = atoll(line)) <= 0)
        return 0;
    snprintf(path, sizeof path, "%s/cpu.cfs_period_us", folder);
    if (!read_line(path, line, sizeof line) || (period = atoll(line)) <= 0)
        return 0;
    return (double)quota / (double)period;
}

/* The tightest quota of the group `relative` and all groups above it, under `root`. */
static double tightest_quota(const char *root, const char *relative, int version)
{
    char folder[400];
    double best = 0;
    snprintf(folder, sizeof folder, "%s%s", root, relative);
    size_t stop = strlen(root);
    for (;;) {
        double quota = quota_in(folder, version);
        if (quota > 0 && (best == 0 || quota < best))
            best = quota;
        char *slash = strrchr(folder, '/');
        if (!slash || (size_t)(slash - folder) < stop)
            return best;
        *slash = 0;
    }
}

NARU_HOST double naru_cpu_quota(void)
{
    FILE *file = fopen("/proc/self/cgroup", "re");
    if (!file)
        return 0;
    char line[320];
    double best = 0;
    while (fgets(line, sizeof line, file)) { /* id:controllers:path; v2 has id 0 and no controllers */
        line[strcspn(line, "\n")] = 0;
        char *controllers = strchr(line, ':');
        char *path = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!path)
            continue;
        *controllers++ = *path++ = 0;
        double quota = 0;
        if (!*controllers)
            quota = tightest_quota("/sys/fs/cgroup", path, 2);
        else if (strstr(controllers, "cpu") && !strstr(controllers, "cpuset"))
            quota = tightest_quota("/sys/fs/cgroup/cpu", path, 1);
        if (quota > 0 && (best == 0 || quota < best))
            best = quota;
    }
    fclose(file);
    return best;
}

/* ---- cores ---- */

/* Whether a sibling hyper-thread of `cpu` with a smaller number is allowed too. */
static int has_earlier_sibling(int cpu, const cpu_set_t *allowed)
{
    char path[128], line[256];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
    if (!read_line(path, line, sizeof line))
        return 0;
    for (char *at = line; *at;) {
        long first = strtol(at, &at, 10), last = first;
        if (*at == '-')
            last = strtol(at + 1, &at, 10);
        for (long k = first; k <= last && k < cpu && k < CPU_SETSIZE; k++)
            if (CPU_ISSET((size_t)k, allowed))
                return 1;
        if (*at != ',')
            break;
        at++;
    }
    return 0;
}

NARU_HOST int naru_allowed_cpus(void)
{
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof allowed, &allowed) == 0)
        return CPU_COUNT(&allowed) > 0 ? CPU_COUNT(&allowed) : 1;
    long online = sysconf(_SC_NPROCESSORS_ONLN); /* more CPUs than cpu_set_t holds */
    return online > 0 ? (int)online : 1;
}

NARU_HOST int naru_usable_cores(void)
{
    cpu_set_t allowed;
    int cores = 0;
    if (sched_getaffinity(0, sizeof allowed, &allowed) == 0) {
        for (int k = 0; k < CPU_SETSIZE; k++)
            cores += CPU_ISSET(k, &allowed) && !has_earlier_sibling(k, &allowed);
    } else {
        cores = naru_allowed_cpus();
    }
    double quota = naru_cpu_quota();
    int limit = quota > 0 ? (int)quota + (quota > (int)quota) : cores;
    cores = limit < cores ? limit : cores;
    return cores > 0 ? cores : 1;
}
