/*
 * The workload of the tests that prove "never two active": every millisecond it appends "<epoch> <monotonic ns> <host>" to a
 * file that lies outside its host, and answers every connection on port 80 with the same line. With a third argument, the
 * address of a probe, it sends the same line there as a datagram to port 7000.
 * usage: exclusive-writer FILE HOST [ADDRESS]
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static void end(int signal) {
  (void)signal;
  _exit(0);
}

static int listen_on(int port) {
  int one = 1;
  struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons(port)};
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (bind(fd, (struct sockaddr *)&any, sizeof any) != 0 || listen(fd, 64) != 0) return -1;
  return fd;
}

int main(int argc, char **argv) {
  if (argc < 3) return 2;
  signal(SIGTERM, end);
  signal(SIGPIPE, SIG_IGN);
  char epoch[32] = "";
  int in = open("/run/trellis/lease/epoch", O_RDONLY);
  ssize_t got = in < 0 ? -1 : read(in, epoch, sizeof epoch - 1);
  if (got <= 0) return 3;
  epoch[strcspn(epoch, "\n")] = 0;
  int out = open(argv[1], O_WRONLY | O_APPEND | O_CREAT, 0644);
  int server = listen_on(80);
  if (out < 0 || server < 0) return 4;
  struct sockaddr_in probe = {.sin_family = AF_INET, .sin_port = htons(7000)};
  int datagrams = argc > 3 && inet_aton(argv[3], &probe.sin_addr) ? socket(AF_INET, SOCK_DGRAM, 0) : -1;
  for (;;) {
    struct timespec now, pause = {0, 1000000};
    char line[128], answer[256];
    clock_gettime(CLOCK_MONOTONIC, &now);
    int length = snprintf(line, sizeof line, "%s %lld%09ld %s\n", epoch, (long long)now.tv_sec, now.tv_nsec, argv[2]);
    if (write(out, line, length) != length) return 5;
    if (datagrams >= 0) (void)!sendto(datagrams, line, length, MSG_DONTWAIT, (struct sockaddr *)&probe, sizeof probe);
    for (int client; (client = accept(server, 0, 0)) >= 0; close(client)) {
      char request[1024];
      (void)!recv(client, request, sizeof request, MSG_DONTWAIT);
      int size = snprintf(answer, sizeof answer, "HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n%s", length, line);
      (void)!write(client, answer, size);
    }
    nanosleep(&pause, 0);
  }
}
