/*
 * Preloaded into a node, so that its clock and its disk lie to it. What they say is in a small file that is
 * mapped into the node and written by the orchestrator at any time; src/bed/shim.rs describes the same bytes.
 *
 *   QUORATE_SHIM_CONTROL   the file. Without it, nothing is changed.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define CONTROL_BYTES 4096
#define NS_PER_S 1000000000LL

/* A clock that shows `to` when the true clock shows `from`, and runs `rate` times as fast from there. */
struct clock {
    _Atomic int64_t from_ns;
    _Atomic int64_t to_ns;
    _Atomic double rate;
};

enum sync_fault { SYNC_WORKS, SYNC_EIO, SYNC_EIO_ONCE, SYNC_HANGS, SYNC_LIES };
enum write_fault { WRITE_WORKS, WRITE_ENOSPC, WRITE_EIO };

struct control {
    /* Odd while the orchestrator writes. */
    _Atomic uint64_t sequence;
    struct clock real;
    struct clock monotonic;
    _Atomic uint64_t sync_fault;
    _Atomic uint64_t sync_delay_ms;
    _Atomic uint64_t write_fault;
    _Atomic uint64_t write_delay_ms;
    /* Only files on this device are touched. */
    _Atomic uint64_t device;
    /* Another number with every change of the faults. */
    _Atomic uint64_t generation;
    /* Padding up to what this side writes. */
    _Atomic uint64_t unused[3];

    /* The generation of which one sync has failed. */
    _Atomic uint64_t failed_once;
    _Atomic uint64_t syncs_failed;
    _Atomic uint64_t syncs_delayed;
    _Atomic uint64_t writes_failed;
    _Atomic uint64_t writes_delayed;
    _Atomic uint64_t syncs_skipped;
};
_Static_assert(offsetof(struct control, sync_fault) == 56, "src/bed/shim.rs has it at 56");
_Static_assert(offsetof(struct control, failed_once) == 128, "src/bed/shim.rs has it at 128");

static struct control *control;

/* The functions that are replaced here, as libc has them. */
static int (*real_clock_gettime)(clockid_t, struct timespec *);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static int (*real_sync_file_range)(int, off64_t, off64_t, unsigned);
static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_writev)(int, const struct iovec *, int);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static ssize_t (*real_pwrite64)(int, const void *, size_t, off64_t);
static int (*real_fallocate)(int, int, off_t, off_t);
static int (*real_cond_timedwait)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
static int (*real_cond_clockwait)(pthread_cond_t *, pthread_mutex_t *, clockid_t, const struct timespec *);
static long (*real_syscall)(long, ...);

#define FIND(name, symbol) (*(void **)&name = dlsym(RTLD_NEXT, symbol))

static void find_all(void) {
    FIND(real_clock_gettime, "clock_gettime");
    FIND(real_fsync, "fsync");
    FIND(real_fdatasync, "fdatasync");
    FIND(real_sync_file_range, "sync_file_range");
    FIND(real_write, "write");
    FIND(real_writev, "writev");
    FIND(real_pwrite, "pwrite");
    FIND(real_pwrite64, "pwrite64");
    FIND(real_fallocate, "fallocate");
    FIND(real_cond_timedwait, "pthread_cond_timedwait");
    FIND(real_cond_clockwait, "pthread_cond_clockwait");
    FIND(real_syscall, "syscall");
}

/* Libraries may call what is replaced before the constructor below has run. */
#define NEED(function)   \
    do {                 \
        if (!function) { \
            find_all();  \
        }                \
    } while (0)

__attribute__((constructor)) static void begin(void) {
    find_all();
    const char *path = getenv("QUORATE_SHIM_CONTROL");
    if (!path) {
        return;
    }
    int fd = open(path, O_RDWR | O_CLOEXEC);
    void *map = fd < 0 ? MAP_FAILED : mmap(NULL, CONTROL_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) {
        /* A test with faults that never come would prove nothing. */
        static const char complaint[] = "the shim can't map QUORATE_SHIM_CONTROL\n";
        (void)!real_write(STDERR_FILENO, complaint, sizeof complaint - 1);
        abort();
    }
    close(fd);
    control = map;
}

/* ---- clocks ---- */

struct setting {
    int64_t from_ns, to_ns;
    double rate;
};

/* Whether `clock` is not the true one; if so, its setting, whole. */
static int setting_of(struct clock *clock, struct setting *setting) {
    uint64_t before, after;
    do {
        before = atomic_load_explicit(&control->sequence, memory_order_acquire);
        setting->from_ns = atomic_load_explicit(&clock->from_ns, memory_order_relaxed);
        setting->to_ns = atomic_load_explicit(&clock->to_ns, memory_order_relaxed);
        setting->rate = atomic_load_explicit(&clock->rate, memory_order_relaxed);
        atomic_thread_fence(memory_order_acquire);
        after = atomic_load_explicit(&control->sequence, memory_order_relaxed);
    } while (before != after || before % 2);
    return setting->rate != 0 && (setting->from_ns != setting->to_ns || setting->rate != 1);
}

static struct clock *clock_of(clockid_t id) {
    if (!control) {
        return NULL;
    }
    switch (id) {
    case CLOCK_REALTIME:
    case CLOCK_REALTIME_COARSE:
    case CLOCK_TAI:
        return &control->real;
    case CLOCK_MONOTONIC:
    case CLOCK_MONOTONIC_COARSE:
    case CLOCK_MONOTONIC_RAW:
    case CLOCK_BOOTTIME:
        return &control->monotonic;
    default:
        return NULL;
    }
}

static int64_t in_ns(const struct timespec *time) {
    return (int64_t)time->tv_sec * NS_PER_S + time->tv_nsec;
}

static struct timespec in_timespec(int64_t ns) {
    int64_t s = ns / NS_PER_S, rest = ns % NS_PER_S;
    if (rest < 0) {
        s -= 1;
        rest += NS_PER_S;
    }
    return (struct timespec){.tv_sec = s, .tv_nsec = rest};
}

/* Between two settings, readers use the first for a moment too long: a monotonic clock must not go back. */
static int64_t never_back(int64_t ns) {
    static _Atomic int64_t latest;
    int64_t seen = atomic_load_explicit(&latest, memory_order_relaxed);
    while (ns > seen) {
        if (atomic_compare_exchange_weak_explicit(&latest, &seen, ns, memory_order_relaxed, memory_order_relaxed)) {
            return ns;
        }
    }
    return seen;
}

int clock_gettime(clockid_t id, struct timespec *time) {
    NEED(real_clock_gettime);
    int result = real_clock_gettime(id, time);
    struct clock *clock = result == 0 ? clock_of(id) : NULL;
    struct setting setting;
    if (clock && setting_of(clock, &setting)) {
        int64_t ns = setting.to_ns + (int64_t)((double)(in_ns(time) - setting.from_ns) * setting.rate);
        /* The raw clock and the coarse one are others than the monotonic one. */
        *time = in_timespec(id == CLOCK_MONOTONIC ? never_back(ns) : ns);
    }
    return result;
}

int gettimeofday(struct timeval *restrict value, void *restrict zone) {
    (void)zone;
    struct timespec time;
    int result = clock_gettime(CLOCK_REALTIME, &time);
    *value = (struct timeval){.tv_sec = time.tv_sec, .tv_usec = time.tv_nsec / 1000};
    return result;
}

time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) {
        *out = now.tv_sec;
    }
    return now.tv_sec;
}

/* The kernel waits by the true clock: a time on the shown one is translated. */
static const struct timespec *to_true(clockid_t id, const struct timespec *shown, struct timespec *space) {
    struct clock *clock = shown ? clock_of(id) : NULL;
    struct setting setting;
    if (!clock || !setting_of(clock, &setting)) {
        return shown;
    }
    int64_t ns = setting.from_ns + (int64_t)((double)(in_ns(shown) - setting.to_ns) / setting.rate);
    *space = in_timespec(ns < 0 ? 0 : ns);
    return space;
}

int pthread_cond_timedwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict until) {
    NEED(real_cond_timedwait);
    struct timespec space;
    /* Nobody here makes conditions that go by another clock: RocksDB doesn't, and Rust has its own. */
    return real_cond_timedwait(condition, mutex, to_true(CLOCK_REALTIME, until, &space));
}

int pthread_cond_clockwait(pthread_cond_t *condition, pthread_mutex_t *mutex, clockid_t id,
                           const struct timespec *until) {
    NEED(real_cond_clockwait);
    struct timespec space;
    return real_cond_clockwait(condition, mutex, id, to_true(id, until, &space));
}

/* Rust's standard library parks threads by this call, until a time on the monotonic clock. */
long syscall(long number, ...) {
    NEED(real_syscall);
    va_list list;
    va_start(list, number);
    long a = va_arg(list, long), b = va_arg(list, long), c = va_arg(list, long);
    long d = va_arg(list, long), e = va_arg(list, long), f = va_arg(list, long);
    va_end(list);
    struct timespec space;
    if (number == SYS_futex && (b & FUTEX_CMD_MASK) == FUTEX_WAIT_BITSET && d) {
        clockid_t id = b & FUTEX_CLOCK_REALTIME ? CLOCK_REALTIME : CLOCK_MONOTONIC;
        d = (long)to_true(id, (const struct timespec *)d, &space);
    }
    return real_syscall(number, a, b, c, d, e, f);
}

/* ---- disk ---- */

static uint64_t get(_Atomic uint64_t *field) {
    return atomic_load_explicit(field, memory_order_relaxed);
}

static void count(_Atomic uint64_t *field) {
    atomic_fetch_add_explicit(field, 1, memory_order_relaxed);
}

static int on_the_disk(int fd) {
    struct stat stat;
    int before = errno;
    int is = fstat(fd, &stat) == 0 && (uint64_t)stat.st_dev == get(&control->device);
    errno = before;
    return is;
}

static void sleep_ms(uint64_t ms) {
    struct timespec time = {.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000};
    int before = errno;
    while (nanosleep(&time, &time) == -1 && errno == EINTR) {
    }
    errno = before;
}

/* Whether this sync is the one of its generation that fails. */
static int first_of_generation(void) {
    uint64_t generation = get(&control->generation);
    uint64_t failed = atomic_exchange(&control->failed_once, generation);
    return failed != generation;
}

/* Lets a sync of `fd` wait as it should, and says whether its outcome is decided without the disk. */
static int sync_is_faked(int fd, int *outcome) {
    if (!control || (!get(&control->sync_fault) && !get(&control->sync_delay_ms)) || !on_the_disk(fd)) {
        return 0;
    }
    uint64_t delay_ms = get(&control->sync_delay_ms);
    if (delay_ms) {
        count(&control->syncs_delayed);
        sleep_ms(delay_ms);
    }
    if (get(&control->sync_fault) == SYNC_HANGS) {
        count(&control->syncs_delayed);
        while (get(&control->sync_fault) == SYNC_HANGS) {
            sleep_ms(1);
        }
    }
    uint64_t fault = get(&control->sync_fault);
    if (fault == SYNC_EIO || (fault == SYNC_EIO_ONCE && first_of_generation())) {
        count(&control->syncs_failed);
        errno = EIO;
        *outcome = -1;
        return 1;
    }
    if (fault == SYNC_LIES) {
        count(&control->syncs_skipped);
        *outcome = 0;
        return 1;
    }
    return 0;
}

int fsync(int fd) {
    NEED(real_fsync);
    int outcome;
    return sync_is_faked(fd, &outcome) ? outcome : real_fsync(fd);
}

int fdatasync(int fd) {
    NEED(real_fdatasync);
    int outcome;
    return sync_is_faked(fd, &outcome) ? outcome : real_fdatasync(fd);
}

int sync_file_range(int fd, off64_t from, off64_t count, unsigned flags) {
    NEED(real_sync_file_range);
    int outcome;
    return sync_is_faked(fd, &outcome) ? outcome : real_sync_file_range(fd, from, count, flags);
}

/* As sync_is_faked, of writes; they never lie. */
static int write_fails(int fd) {
    if (!control || (!get(&control->write_fault) && !get(&control->write_delay_ms)) || !on_the_disk(fd)) {
        return 0;
    }
    uint64_t delay_ms = get(&control->write_delay_ms);
    if (delay_ms) {
        count(&control->writes_delayed);
        sleep_ms(delay_ms);
    }
    uint64_t fault = get(&control->write_fault);
    if (fault != WRITE_WORKS) {
        count(&control->writes_failed);
        errno = fault == WRITE_ENOSPC ? ENOSPC : EIO;
        return 1;
    }
    return 0;
}

ssize_t write(int fd, const void *bytes, size_t count) {
    NEED(real_write);
    return write_fails(fd) ? -1 : real_write(fd, bytes, count);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    NEED(real_writev);
    return write_fails(fd) ? -1 : real_writev(fd, parts, count);
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t at) {
    NEED(real_pwrite);
    return write_fails(fd) ? -1 : real_pwrite(fd, bytes, count, at);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at) {
    NEED(real_pwrite64);
    return write_fails(fd) ? -1 : real_pwrite64(fd, bytes, count, at);
}

int fallocate(int fd, int mode, off_t from, off_t count) {
    NEED(real_fallocate);
    return write_fails(fd) ? -1 : real_fallocate(fd, mode, from, count);
}
