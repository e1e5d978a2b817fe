/*
 * The workload behind the gate of a guard in benchmarks, where the start of a large program would be measured with it: takes
 * itself into the gate, then appends "<epoch> <monotonic ns> <host>" to a file every millisecond.
 * usage: gate-writer PROCS LEASE-DIRECTORY FILE HOST
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static ssize_t read_all(const char *path, char *into, size_t size) {
  int fd = open(path, O_RDONLY);
  if (fd < 0) return -1;
  ssize_t got = read(fd, into, size - 1);
  close(fd);
  into[got < 0 ? 0 : got] = 0;
  return got;
}

int main(int argc, char **argv) {
  if (argc < 5) return 2;
  char number[32], path[4096], epoch[32];
  int procs = open(argv[1], O_WRONLY);
  int length = snprintf(number, sizeof number, "%d", (int)getpid());
  if (procs < 0 || write(procs, number, length) != length) return 3;
  close(procs);
  snprintf(path, sizeof path, "%s/epoch", argv[2]);
  if (read_all(path, epoch, sizeof epoch) <= 0) return 4;
  epoch[strcspn(epoch, "\n")] = 0;
  int out = open(argv[3], O_WRONLY | O_APPEND | O_CREAT, 0644);
  if (out < 0) return 5;
  for (;;) {
    struct timespec now, pause = {0, 1000000};
    char line[128];
    clock_gettime(CLOCK_MONOTONIC, &now);
    int size = snprintf(line, sizeof line, "%s %lld%09ld %s\n", epoch, (long long)now.tv_sec, now.tv_nsec, argv[4]);
    if (write(out, line, size) != size) return 6;
    nanosleep(&pause, 0);
  }
}
