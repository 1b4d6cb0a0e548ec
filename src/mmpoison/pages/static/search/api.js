// Sends requests to the server; distinguishes a refusal from a server that cannot be reached.

export class Refused extends Error {}
export class Unreachable extends Error {}

export async function ask(path, parameters = {}, options = {}) {
  const given = Object.entries(parameters).filter(([, value]) => value !== "" && value !== null);
  const query = new URLSearchParams(given).toString();
  let answer;
  let body;
  try {
    answer = await fetch(query ? `${path}?${query}` : path, { cache: "no-store", ...options });
    body = await answer.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Unreachable("The server does not answer.");
  }
  if (!answer.ok) throw new Refused(body.error || `The server answered with status ${answer.status}.`);
  return body;
}
