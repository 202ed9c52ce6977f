// Threads that share the items of one job.

#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <system_error>
#include <thread>
#if defined(__x86_64__) || defined(__i386__)
#include <xmmintrin.h>
#endif

namespace {

struct FlushDenormals {
#if defined(__x86_64__) || defined(__i386__)
    unsigned saved = _mm_getcsr();
    FlushDenormals() { _mm_setcsr(saved | 0x8040); }
    ~FlushDenormals() { _mm_setcsr(saved); }
#endif
};

static inline void pause() {
#if defined(__x86_64__) || defined(__i386__)
    _mm_pause();
#endif
}

// Threads that help with the items of one job after another. The caller works too, and waits only for items that a
// helper has begun, never for a helper: where another process holds the other core, a job takes as long as one thread
// needs. (The barrier of an OpenMP loop waits for every thread to have had its turn: fifteen times longer, measured.)
class Helpers {
    std::atomic<uint64_t> left{0};  // number of the job in the upper half, items not yet begun in the lower
    std::atomic<int64_t> finished{0};
    std::atomic<int> asleep{0};
    void (*work)(void*, int64_t) = nullptr;
    void* context = nullptr;
    int64_t items = 0;
    std::mutex one_job, sleep;
    std::condition_variable wake;
    int started = 0;

    // Takes items until none is left. That the number of the job is part of `left` makes sure that `work` belongs to
    // the item: the job cannot end before the item is finished.
    void help() {
        uint64_t now = left.load(std::memory_order_acquire);
        while ((uint32_t)now)
            if (left.compare_exchange_weak(now, now - 1, std::memory_order_acq_rel)) {
                work(context, items - (int64_t)(uint32_t)now);
                finished.fetch_add(1, std::memory_order_release);
                now = left.load(std::memory_order_acquire);
            }
    }

    bool idle() const { return !(uint32_t)left.load(); }

    void serve() {
        FlushDenormals flush;
        for (;;) {
            help();
            for (int spin = 0; spin < 4000 && idle(); ++spin) pause();  // the next job often comes within 100 us
            if (!idle()) continue;
            std::unique_lock<std::mutex> hold(sleep);
            asleep.fetch_add(1);
            wake.wait(hold, [this] { return !idle(); });
            asleep.fetch_sub(1);
        }
    }

   public:
    void run(int64_t count, int64_t threads, void (*job)(void*, int64_t), void* argument) {
        std::lock_guard<std::mutex> alone(one_job);
        FlushDenormals flush;
        try {
            for (; started < threads - 1; ++started) std::thread([this] { serve(); }).detach();
        } catch (const std::system_error&) {  // no more threads to be had: the caller does what is left
        }
        work = job;
        context = argument;
        items = count;
        finished.store(0);
        if (threads > 1) {
            left.store(((left.load() >> 32) + 1) << 32 | (uint64_t)count);
            if (asleep.load()) {
                std::lock_guard<std::mutex> hold(sleep);
                wake.notify_all();
            }
            help();
        } else {
            for (int64_t k = 0; k < count; ++k) job(argument, k);
            finished.store(count);
        }
        for (int spin = 0; finished.load(std::memory_order_acquire) < count; ++spin)
            if (spin < 2000)
                pause();
            else
                std::this_thread::yield();
    }
};

// Never destroyed: its threads sleep on it when the process ends.
Helpers& helpers() {
    static Helpers* one = new Helpers;
    return *one;
}

// f(k) for every k below count, by up to `threads` threads.
template <typename F>
void parallel(int64_t count, int64_t threads, F f) {
    helpers().run(count, threads, [](void* g, int64_t k) { (*(F*)g)(k); }, &f);
}

}  // namespace
