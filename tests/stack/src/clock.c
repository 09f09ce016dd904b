/* The wall clock of the program that loads this is CLOCK_SKEW seconds ahead. What waits until a time of that clock waits as long as
   it meant to: libfaketime leaves cnd_timedwait alone, in which the Kafka client waits. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

static time_t skew(void) {
    const char *said = getenv("CLOCK_SKEW");
    return said ? atoll(said) : 0;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = syscall(SYS_clock_gettime, clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += skew();
    return failed;
}

int timespec_get(struct timespec *now, int base) {
    return base == TIME_UTC && !clock_gettime(CLOCK_REALTIME, now) ? base : 0;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec precise;
    if (clock_gettime(CLOCK_REALTIME, &precise)) return -1;
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *into) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (into) *into = now.tv_sec;
    return now.tv_sec;
}

static struct timespec meant(const struct timespec *until) {
    return (struct timespec){.tv_sec = until->tv_sec - skew(), .tv_nsec = until->tv_nsec};
}

int cnd_timedwait(cnd_t *condition, mtx_t *lock, const struct timespec *until) {
    int (*real)(cnd_t *, mtx_t *, const struct timespec *) = dlsym(RTLD_NEXT, "cnd_timedwait");
    struct timespec then = meant(until);
    return real(condition, lock, &then);
}

/* Of conditions that go by another clock there are none here: Rust waits by system calls of its own. */
int pthread_cond_timedwait(pthread_cond_t *condition, pthread_mutex_t *lock, const struct timespec *until) {
    int (*real)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *) = dlsym(RTLD_NEXT, "pthread_cond_timedwait");
    struct timespec then = meant(until);
    return real(condition, lock, &then);
}
