/** The field that asks for a token where the server wants one. */

import { keepToken, onUnauthorised } from "./api.js";
import { byId } from "./dom.js";

/** Requests that wait for the reader to type a token; all go on with the same one. */
let waiting = [];

export function wireToken() {
  onUnauthorised((message) => {
    byId("token-text").textContent = message;
    byId("token-form").hidden = false;
    byId("token").focus();
    return new Promise((resolve) => { waiting.push(resolve); });
  });
  byId("token-form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (byId("token").value.trim()) useToken();
  });
}

function useToken() {
  keepToken(byId("token").value.trim());
  byId("token").value = "";
  byId("token-form").hidden = true;
  const all = waiting;
  waiting = [];
  all.forEach((resolve) => resolve());
}
