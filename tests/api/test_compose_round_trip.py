"""What `orca import compose` writes is what the deploy endpoint takes."""

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from inprocess import InProcess
from orca.main import cli

BLOG = """
name: blog
services:
  wordpress:
    image: wordpress:6
    restart: always
    ports: ["8080:80"]
    environment:
      WORDPRESS_DB_HOST: db
      WORDPRESS_DB_PASSWORD_FILE: /run/secrets/db_password
      PRICE: "$$5, and $${secrets.NONE} stays"
    secrets: [db_password]
    volumes: [wordpress:/var/www/html, ./php.ini:/usr/local/etc/php/php.ini:ro]
    depends_on: {db: {condition: service_healthy}}
  db:
    image: mysql:8.0
    environment: [MYSQL_DATABASE=exampledb, MYSQL_RANDOM_ROOT_PASSWORD=1]
    volumes: [db:/var/lib/mysql]
    healthcheck:
      test: ["CMD", "mysqladmin", "ping", "-h", "localhost"]
      interval: 10s
      timeout: 5s
      retries: 5
      start_period: 10m
volumes: {wordpress: {}, db: {}}
secrets: {db_password: {file: db_password.txt}}
"""
VOTING = """
version: "3.8"
services:
  vote:
    image: vote_app:${TAG:-latest}
    command: python app.py --debug
    depends_on: [redis]
    ports: [{target: 80, published: 5000}]
    networks: {front: {aliases: [ballot]}, back: {}}
    deploy:
      replicas: 2
      update_config: {parallelism: 2, order: start-first, monitor: 5s, failure_action: pause}
      resources: {limits: {cpus: "0.50", memory: 256M}, reservations: {memory: 64M}}
      placement:
        constraints: [node.labels.zone != west]
        preferences: [{spread: node.labels.zone}]
        max_replicas_per_node: 1
  redis:
    image: redis:alpine
    healthcheck: {test: redis-cli ping, interval: 500ms}
    stop_signal: SIGINT
    stop_grace_period: 1m30s
    logging: {driver: json-file, options: {max-size: 10m, max-file: "3"}}
  worker_job:
    image: worker
    entrypoint: ["/bin/sh", "-c"]
    command: ["echo $$HOME"]
    user: "1000:1000"
    working_dir: /srv
    pull_policy: if_not_present
    devices: ["/dev/snd:/dev/snd:rw"]
    depends_on: [redis, vote]
networks: {front: {}, back: {}}
"""


@pytest.mark.parametrize(("text", "names"), [
    (BLOG, ["db", "wordpress"]), (VOTING, ["redis", "vote", "worker-job"]),
])  # fmt: skip
async def test_what_is_written_is_accepted(
    cluster: InProcess, tmp_path: Path, text: str, names: list[str]
) -> None:
    await cluster.call("PUT", "/api/v1/secrets/db_password", {"value": "x"})
    path = tmp_path / "compose.yaml"
    path.write_text(text)
    done = CliRunner().invoke(cli, ["import", "compose", str(path)])
    assert done.exit_code == 0, done.stderr
    services = yaml.safe_load(done.stdout)["services"]
    answer = await cluster.deploy(*services, plan="true")
    assert (answer.status, answer.json["errors"]) == (200, []), answer.text
    assert sorted(each["service"] for each in answer.json["plan"]) == names
    assert {each["action"] for each in answer.json["plan"]} == {"create"}
